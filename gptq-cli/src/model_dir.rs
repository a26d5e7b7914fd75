//! Opening a model folder the way every command does.

use std::path::Path;

use gptq_calib::Tokenizer;
use gptq_models::{Adapter, Architecture, Checkpoint, Model};
use gptq_pack::{PackedBackend, ZeroPointFormat};

use crate::{
    args::{FormatArg, ReadingArgs},
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

/// A model on a backend, and an adapter on top of it if one is named.
pub(crate) fn load<B: PackedBackend>(
    checkpoint: &Checkpoint,
    adapter: Option<&Path>,
    backend: B,
) -> Result<Model<B>, Failure> {
    // The small file first: what is wrong with it is known before a model is loaded.
    let adapter = adapter.map(Adapter::open).transpose()?;
    let model = Model::load(checkpoint, backend)?;
    Ok(match &adapter {
        Some(adapter) => model.with_adapter(adapter)?,
        None => model,
    })
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
