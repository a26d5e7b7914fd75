//! From one packed format to another, or to plain weights: the same integers in another order,
//! proven from the bytes on disk, or a refusal that says what would be lost.
//!
//! Nothing here knows model families. Packed modules are found by their tensors' names, everything
//! else is copied byte for byte.

mod config;
mod files;
mod layer;
mod loss;
mod plan;

use std::{fmt, path::Path, time::Instant};

use gptq_pack::{CheckpointConfig, Dtype, Format};
use rayon::prelude::*;
use serde::Serialize;
use serde_json::Value;

use crate::{
    Checkpoint, CheckpointWriter, Entry, Error, Ledger, Progress, Staging, quantization_config,
    quantized::{packed_names, unexplained},
    verify::{REPORT, hashes, seal},
    zero_points,
};
use plan::Plan;

/// What to convert to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Packed linears in this format.
    Packed(Format),
    /// Plain weights in this type, `F16`, `BF16` or `F32`; without one, in that of the model's
    /// other weights.
    Dense(Option<Dtype>),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Packed(format) => format.fmt(f),
            Target::Dense(_) => f.write_str("dense"),
        }
    }
}

/// Settings of [`convert`].
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// Take the nearest that the target can hold where it cannot hold a layer exactly.
    pub lossy: bool,
    /// Largest shard, in bytes of tensors.
    pub max_shard_bytes: u64,
    /// Name and version of the program, for the report.
    pub tool: String,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self {
            lossy: false,
            max_shard_bytes: 5_000_000_000,
            tool: concat!("gptq ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// What was done; also the `gptq_report.json` of the result.
#[derive(Clone, Debug, Serialize)]
pub struct ConvertReport {
    /// Name and version of the program.
    pub tool: String,
    /// Format of the source.
    pub from: String,
    /// Format of the result, with the type of plain weights.
    pub to: String,
    /// Every converted linear.
    pub layers: Vec<ConvertedLayer>,
    /// Layers that stand for exactly the same numbers.
    pub lossless: usize,
    /// The others.
    pub lossy: usize,
    /// Layers that were read back from disk and compared: all of them.
    pub proven: usize,
    /// What a user should know before serving the result.
    pub notices: Vec<String>,
    /// The source's own `gptq_report.json`, if it has one: how its codes were found. Hashes and
    /// the account of files, which are the source's, are left out.
    pub source_report: Value,
    /// Every tensor and file of the source.
    pub ledger: Ledger,
    /// SHA-256 of every written tensor, as hex.
    pub sha256: std::collections::BTreeMap<String, String>,
    /// Bytes of the source's tensors.
    pub source_bytes: u64,
    /// Bytes of the result's tensors.
    pub output_bytes: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// SHA-256 of the source's weight files and config, as hex.
    pub source: std::collections::BTreeMap<String, String>,
    /// SHA-256 of every other file of the result, and of the headers of its weight files, as hex.
    pub files: std::collections::BTreeMap<String, String>,
    /// SHA-256 of this report's own text, with 64 zeros in this place.
    pub seal: String,
}

/// One converted linear.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConvertedLayer {
    /// Full name.
    pub name: String,
    /// Whether it stands for exactly the same numbers.
    pub lossless: bool,
    /// Largest change of a weight, as a share of the layer's root mean square weight.
    pub max_error: f64,
    /// Root mean square of the changes, as a share of the same.
    pub rms_error: f64,
}

/// Converts a checkpoint to another format, into the new folder `out`.
///
/// Whether the target holds every layer exactly (integers, scales, zero points, group indices) is
/// decided before anything is written. Each layer is then written, read back from disk, unpacked by
/// the target's reader and compared with the source's integers and grids; for plain weights, with
/// their products. `config.json` and `quantize_config.json` are written for the target; all else is
/// copied byte for byte.
///
/// Cost: one pass over the weights, and one over scales and zero points; a pass more for formats
/// other than `gptq` and `gptq_v2`, and for plain weights in half precision without
/// [`lossy`](ConvertOptions::lossy). Memory: a layer per thread. Layers are shared among the
/// caller's threads; the result does not depend on their number.
///
/// # Errors
/// [`Error::File`] for a source without packed layers, and for layers that the target holds only
/// with loss or not at all, with their number, the first of them, the reason and the loss;
/// [`Error::ZeroPoints`]; [`Error::Verify`] if the bytes on disk are not what was converted; and
/// whatever is wrong with the source. Nothing bears the name `out` then.
///
/// ```no_run
/// use std::path::Path;
///
/// use gptq_models::{Checkpoint, ConvertOptions, Target, convert};
/// use gptq_pack::Format;
///
/// let source = Checkpoint::open(Path::new("my-llama-gptq"))?;
/// let target = Target::Packed(Format::Awq);
/// let out = Path::new("my-llama-awq");
/// let report = convert(&source, target, &ConvertOptions::default(), out, &mut ())?;
/// assert_eq!(report.proven, report.layers.len());
/// # Ok::<(), gptq_models::Error>(())
/// ```
pub fn convert(
    checkpoint: &Checkpoint,
    target: Target,
    options: &ConvertOptions,
    out: &Path,
    progress: &mut dyn Progress,
) -> Result<ConvertReport, Error> {
    let started = Instant::now();
    Staging::check(out)?;
    let config = quantization_config(checkpoint)?;
    if config.is_none() {
        unexplained(checkpoint, |_| true)?;
    }
    let packed = |config: &CheckpointConfig| !packed_names(checkpoint, config.format).is_empty();
    let Some(config) = config.filter(packed) else {
        return Err(Error::file(
            checkpoint.dir(),
            "has no packed layers to convert; gptq quantize makes them, with --method rtn without \
             calibration text",
        ));
    };
    zero_points::check(checkpoint, &config)?;
    let plan = Plan::new(checkpoint, &config, target, options.lossy, progress)?;
    let source_report = files::source_report(checkpoint);
    for notice in &plan.notices {
        progress.notice(notice);
    }

    let staging = Staging::create(out)?;
    let writer = CheckpointWriter::create(staging.path(), &plan.outputs, options.max_shard_bytes)?;
    plan.copies.par_iter().try_for_each(|name| writer.put(name, checkpoint.tensor(name)?.bytes))?;
    let mut layers = Vec::with_capacity(plan.layers.len());
    // In batches, because progress is told by this thread.
    for batch in plan.layers.chunks(4 * rayon::current_num_threads()) {
        progress.advance(plan.share(layers.len()), &batch[0].layer.name);
        let done: Result<Vec<_>, _> =
            batch.par_iter().map(|layer| layer::convert(layer, plan.target, &writer)).collect();
        layers.extend(done?);
    }

    let written = writer.finish()?;
    let dir = staging.path();
    files::write_configs(checkpoint, dir, plan.target, plan.config.as_ref())?;
    let ledger =
        Ledger { tensors: plan.tensors, files: files::copy(checkpoint, dir, plan.target)? };
    let lossless = layers.iter().filter(|layer| layer.lossless).count();
    let report = ConvertReport {
        tool: options.tool.clone(),
        from: config.format.to_string(),
        to: plan.target.to_string(),
        lossless,
        lossy: layers.len() - lossless,
        proven: layers.len(),
        layers,
        notices: plan.notices,
        source_report,
        ledger,
        sha256: written.sha256,
        source_bytes: checkpoint.nbytes(),
        output_bytes: written.tensor_bytes,
        seconds: started.elapsed().as_secs_f64(),
        source: hashes::of_source(checkpoint)?,
        files: hashes::of_folder(dir)?,
        seal: seal::OPEN.to_owned(),
    };
    seal::write(&dir.join(REPORT), &report)?;
    staging.finish()?;
    progress.advance(1.0, "");
    Ok(report)
}

/// The account of a source tensor or file.
fn entry(name: &str, fate: crate::Fate, reason: Option<&str>) -> Entry {
    Entry::new(name, fate, reason)
}
