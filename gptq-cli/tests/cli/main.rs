//! The whole program, from what is typed to exit code, stdout, stderr and files.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic like tests")]

mod adapters;
mod again;
mod bench;
mod check;
mod commands;
mod convert;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod cuda;
mod demo;
mod diff;
mod failures;
mod fallback;
mod logits;
mod quantize;
mod report;
mod resume;
mod solve_layer;
mod usage;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use assert_cmd::Command;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;

/// A file or folder of the workspace's fixtures.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

/// A small LLaMA with a tokenizer: the model of the demo.
fn mini() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/mini-llama")
}

/// A text of the demo.
fn text(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo").join(name)
}

/// A finished process.
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    /// The one JSON object on stdout.
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.stderr);
        // `from_str` refuses anything before or after.
        let value: Value = serde_json::from_str(&self.stdout).unwrap();
        assert!(value.is_object(), "{}", self.stdout);
        value
    }

    /// Asserts the exit code, an empty stdout and words on stderr.
    fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}", self.stderr);
        assert_eq!(self.stdout, "", "a failed command prints no result");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in {:?}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

/// Runs the program to its end.
fn gptq<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gptq"));
    let output = command.args(args).timeout(Duration::from_secs(300)).output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Arguments of mixed kinds.
macro_rules! args {
    ($($arg:expr),* $(,)?) => {
        [$(std::ffi::OsString::from($arg.to_owned())),*]
    };
}
use args;

/// `gptq quantize` on four samples of 64 tokens of the demo's text.
fn short_run(model: &Path, out: &Path, options: &[&str]) -> Ran {
    let fixed = args![
        "quantize",
        model,
        "--out",
        out,
        "--calib",
        text("calibration.txt"),
        "--nsamples",
        "4",
        "--seqlen",
        "64",
    ];
    gptq(fixed.into_iter().chain(options.iter().map(Into::into)))
}

/// A tensor as a file holds it.
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Stored {
    fn new<T: bytemuck::NoUninit>(dtype: Dtype, shape: &[usize], values: &[T]) -> Self {
        let bytes = bytemuck::cast_slice(values).to_vec();
        Self { dtype, shape: shape.to_vec(), bytes }
    }

    fn values<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(&self) -> Vec<T> {
        bytemuck::pod_collect_to_vec(&self.bytes)
    }
}

fn read_tensors(path: &Path) -> BTreeMap<String, Stored> {
    let bytes = fs::read(path).unwrap();
    let stored = |view: TensorView<'_>| Stored {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors().into_iter().map(|(name, view)| (name, stored(view))).collect()
}

fn write_tensors(path: &Path, tensors: &[(&str, &Stored)]) {
    let views = tensors.iter().map(|(name, stored)| (*name, view(stored)));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn view(stored: &Stored) -> TensorView<'_> {
    TensorView::new(stored.dtype, stored.shape.clone(), &stored.bytes).unwrap()
}
