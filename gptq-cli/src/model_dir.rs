//! Opening a model folder the way every command does.

use std::path::Path;

use gptq_calib::Tokenizer;
use gptq_kernels::{CpuBackend, Isa, Precision};
use gptq_models::{Adapter, Architecture, Checkpoint, Model};
use gptq_pack::ZeroPointFormat;

use crate::{
    args::{FormatArg, PrecisionArg, ReadingArgs},
    failure::Failure,
};

/// Context length nobody asked to exceed.
const SEQLEN: usize = 2048;

/// A folder, its zero points read as asked.
pub(crate) fn open(dir: &Path, reading: &ReadingArgs) -> Result<Checkpoint, Failure> {
    let convention = reading.zero_points.map(|format| match format {
        FormatArg::Gptq => ZeroPointFormat::Gptq,
        FormatArg::GptqV2 => ZeroPointFormat::GptqV2,
    });
    Ok(Checkpoint::open(dir)?.with_zero_points(convention))
}

/// A model, and an adapter on top of it if one is named.
pub(crate) fn load(
    dir: &Path,
    reading: &ReadingArgs,
    adapter: Option<&Path>,
    precision: PrecisionArg,
) -> Result<Model<CpuBackend>, Failure> {
    // The small file first: what is wrong with it is known before a model is loaded.
    let adapter = adapter.map(Adapter::open).transpose()?;
    let model = Model::load(&open(dir, reading)?, backend(precision))?;
    Ok(match &adapter {
        Some(adapter) => model.with_adapter(adapter)?,
        None => model,
    })
}

/// This CPU with products of these numbers.
pub(crate) fn backend(precision: PrecisionArg) -> CpuBackend {
    CpuBackend::new().with_precision(match precision {
        PrecisionArg::F32 => Precision::F32,
        PrecisionArg::Bf16 => Precision::Bf16,
        PrecisionArg::Int8 => Precision::Int8,
    })
}

/// What text is generated with, unless told: bytes, where the CPU multiplies them faster.
pub(crate) fn fast(asked: Option<PrecisionArg>) -> PrecisionArg {
    let vectors = Isa::best() != Isa::SCALAR;
    asked.unwrap_or(if vectors { PrecisionArg::Int8 } else { PrecisionArg::F32 })
}

/// `int8 on amx`.
pub(crate) fn describe(backend: &CpuBackend) -> String {
    format!("{} on {}", backend.precision().name(), backend.isa().name())
}

pub(crate) fn tokenizer(dir: &Path) -> Result<Tokenizer, Failure> {
    Ok(Tokenizer::from_file(&dir.join("tokenizer.json"))?)
}

/// An option's gigabytes as bytes.
pub(crate) fn gigabytes(option: &str, gigabytes: f64) -> Result<u64, Failure> {
    if gigabytes > 0.0 && gigabytes.is_finite() {
        return Ok((gigabytes * 1e9) as u64);
    }
    Err(Failure::usage(format!("{option} must be above 0")))
}

/// Tokens per sequence: as asked, or 2048 within the model's context.
pub(crate) fn seqlen(asked: Option<usize>, checkpoint: &Checkpoint) -> Result<usize, Failure> {
    if let Some(seqlen) = asked {
        return Ok(seqlen);
    }
    let arch = Architecture::of(checkpoint)?;
    Ok(SEQLEN.min(arch.config.max_position_embeddings))
}
