//! Checkpoints as others wrote them, old names and old mistakes included.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic like tests")]

mod names;
mod tensors;
mod zero_points;

use std::path::Path;

use gptq_kernels::CpuBackend;
use gptq_models::{Checkpoint, Inspection, Model, inspect};
use gptq_pack::ZeroPointFormat;
use gptq_tests::{ModelFiles, random_tokens};
use ndarray::Array2;
use tempfile::TempDir;

/// A fixture's files in a folder of their own, after a change.
fn changed(name: &str, change: impl FnOnce(&mut ModelFiles)) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut files = ModelFiles::of(name);
    change(&mut files);
    files.write(dir.path());
    dir
}

/// The logits of a folder on fixed tokens, or the message with which it is refused.
fn logits(dir: &Path, zero_points: Option<ZeroPointFormat>) -> Result<Array2<f32>, String> {
    let checkpoint = Checkpoint::open(dir).map_err(|e| e.to_string())?;
    let checkpoint = checkpoint.with_zero_points(zero_points);
    let model = Model::load(&checkpoint, CpuBackend::new()).map_err(|e| e.to_string())?;
    Ok(model.logits(&random_tokens(3, 1, 24)[0]).unwrap())
}

fn found(dir: &Path) -> Inspection {
    inspect(&Checkpoint::open(dir).unwrap()).unwrap()
}
