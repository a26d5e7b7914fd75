//! Broken sources, one test per way to be broken: the message names the file, the tensor, the rule
//! and the numbers, nothing is left behind, and nothing panics.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic like tests")]

mod configs;
mod files;
mod inputs;
mod outputs;
mod packed;
mod places;
mod shards;
mod tensors;

use std::path::Path;

use gptq_core::{ActOrder, GroupSize, QuantConfig};
use gptq_kernels::CpuBackend;
use gptq_models::{Checkpoint, Method, Model, QuantizeOptions, Report, quantize};
use gptq_tests::{ModelFiles, file_names, random_tokens};

fn options(method: Method) -> QuantizeOptions {
    let config = QuantConfig {
        group_size: GroupSize::from_file(32).unwrap(),
        act_order: ActOrder::Natural,
        ..QuantConfig::default()
    };
    QuantizeOptions { method, config, ..QuantizeOptions::default() }
}

fn open(model: &Path) -> Result<Checkpoint, String> {
    Checkpoint::open(model).map_err(|e| e.to_string())
}

fn run(model: &Path, out: &Path, method: Method) -> Result<Report, String> {
    let source = open(model)?;
    let samples = random_tokens(1, 2, 16);
    quantize(&source, &samples, &CpuBackend::new(), &options(method), out, &mut ())
        .map_err(|e| e.to_string())
}

/// The message with which a folder is refused. Nothing may stand where the result would have.
fn refused_by(model: &Path, method: Method) -> String {
    let parent = tempfile::tempdir().unwrap();
    let error = match run(model, &parent.path().join("out"), method) {
        Ok(_) => panic!("{method:?} accepts {}", model.display()),
        Err(error) => error,
    };
    // What is finished by then stays, under another name, and is spoken of on a second line.
    let (error, left) = match error.split_once('\n') {
        Some((error, kept)) => {
            gptq_tests::assert_says(kept, &["finished and kept in", "out.partial"]);
            (error.to_owned(), vec!["out.partial"])
        }
        None => (error, vec![]),
    };
    assert_eq!(file_names(parent.path()), left, "left behind after {error:?}");
    error
}

/// Refused by GPTQ and by round-to-nearest, with the same message.
fn refused(model: &Path) -> String {
    let error = refused_by(model, Method::Gptq);
    assert_eq!(refused_by(model, Method::Rtn), error);
    error
}

fn load(model: &Path) -> Result<Model<CpuBackend>, String> {
    Model::load(&open(model)?, CpuBackend::new()).map_err(|e| e.to_string())
}

/// The message with which a folder cannot be loaded to run.
fn unloadable(model: &Path) -> String {
    match load(model) {
        Ok(_) => panic!("{} loads", model.display()),
        Err(error) => error,
    }
}

/// A folder with a fixture's files after a change.
fn changed(name: &str, change: impl FnOnce(&mut ModelFiles)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut files = ModelFiles::of(name);
    change(&mut files);
    files.write(dir.path());
    dir
}

/// `arch/llama` after a change.
fn llama(change: impl FnOnce(&mut ModelFiles)) -> tempfile::TempDir {
    changed("arch/llama", change)
}

#[test]
fn the_unharmed_model_is_quantized_by_both_methods() {
    let dir = llama(|_| {});
    for method in [Method::Gptq, Method::Rtn] {
        let parent = tempfile::tempdir().unwrap();
        run(dir.path(), &parent.path().join("out"), method).unwrap();
        assert_eq!(file_names(parent.path()), ["out"]);
    }
}
