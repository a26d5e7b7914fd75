//! From a source folder to a checkpoint that runs: every width, grid, group and order on a small
//! LLaMA, and what the result promises about itself.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic like tests")]

mod accuracy;
mod determinism;
mod files;
mod promises;
mod rules;
mod schemes;

use std::path::{Path, PathBuf};

use gptq_core::{ActOrder, Bits, GroupSize, QuantConfig};
use gptq_kernels::CpuBackend;
use gptq_models::{Checkpoint, Method, Model, QuantizeOptions, Report, quantize};
use gptq_tests::{fixture, random_tokens};
use tempfile::TempDir;

/// The source of every test here.
fn source() -> Checkpoint {
    Checkpoint::open(&fixture("arch/llama")).unwrap()
}

/// Symmetric groups of 32 in the natural order.
fn options(bits: Bits) -> QuantizeOptions {
    let config = QuantConfig {
        bits,
        group_size: GroupSize::from_file(32).unwrap(),
        act_order: ActOrder::Natural,
        ..QuantConfig::default()
    };
    QuantizeOptions { config, ..QuantizeOptions::default() }
}

/// Enough tokens that no Hessian is singular.
fn calibration() -> Vec<Vec<u32>> {
    random_tokens(1, 12, 48)
}

/// A finished run in a folder that goes away with it.
struct Run {
    report: Report,
    dir: PathBuf,
    _parent: TempDir,
}

impl Run {
    fn of(source: &Checkpoint, samples: &[Vec<u32>], options: &QuantizeOptions) -> Self {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("out");
        let backend = CpuBackend::new();
        let report = quantize(source, samples, &backend, options, &dir, &mut ()).unwrap();
        Run { report, dir, _parent: parent }
    }

    /// The usual source on the usual tokens.
    fn with(options: &QuantizeOptions) -> Self {
        let samples = match options.method {
            Method::Gptq => calibration(),
            Method::Rtn => Vec::new(),
        };
        Self::of(&source(), &samples, options)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn load(&self) -> Model<CpuBackend> {
        load(&self.dir)
    }
}

fn load(dir: &Path) -> Model<CpuBackend> {
    Model::load(&Checkpoint::open(dir).unwrap(), CpuBackend::new()).unwrap()
}
