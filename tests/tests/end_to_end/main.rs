//! From a source folder to a checkpoint that runs: every width, grid, group and order on a small
//! LLaMA, and what the result promises about itself.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic like tests")]

mod accuracy;
mod adapter;
mod determinism;
mod engines;
mod eora;
mod fallback;
mod files;
mod gptaq;
mod head;
mod memory;
mod promises;
mod rules;
mod schemes;
mod sequential;
mod stubborn;
mod verify;

use std::path::{Path, PathBuf};

use gptq_core::{ActOrder, Bits, GroupSize, QuantConfig};
use gptq_kernels::CpuBackend;
use gptq_models::{Checkpoint, Method, Model, QuantizeOptions, Report, quantize};
use gptq_pack::{DynamicRules, PackedBackend};
use gptq_tests::{Tensors, fixture, random_tokens, read_tensors};
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

/// Names and tensors that hold a linear's codes and grids, of linears whose names satisfy `which`.
fn packed(run: &Run, which: impl Fn(&str) -> bool) -> Tensors {
    let parts = [".qweight", ".qzeros", ".scales", ".g_idx"];
    let packed = |name: &str| parts.iter().any(|part| name.ends_with(part)) && which(name);
    let tensors = read_tensors(&run.file("model.safetensors"));
    tensors.into_iter().filter(|(name, _)| packed(name)).collect()
}

/// The error of a run that cannot succeed.
fn refused(source: &Checkpoint, samples: &[Vec<u32>], options: &QuantizeOptions) -> String {
    let ran = Run::on(&CpuBackend::new(), source, samples, options);
    ran.err().expect("a run that fails")
}

/// Rules from JSON.
fn rules(json: &serde_json::Value) -> DynamicRules {
    DynamicRules::from_json(json).unwrap()
}

/// A finished run in a folder that goes away with it.
struct Run {
    report: Report,
    dir: PathBuf,
    _parent: TempDir,
}

impl Run {
    fn of(source: &Checkpoint, samples: &[Vec<u32>], options: &QuantizeOptions) -> Self {
        Self::on(&CpuBackend::new(), source, samples, options).unwrap()
    }

    /// On a backend of choice. A run that fails leaves nothing under its name.
    fn on<B: PackedBackend>(
        backend: &B,
        source: &Checkpoint,
        samples: &[Vec<u32>],
        options: &QuantizeOptions,
    ) -> Result<Self, String> {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("out");
        let report = quantize(source, samples, backend, options, &dir, &mut ());
        assert_eq!(dir.exists(), report.is_ok());
        let report = report.map_err(|error| error.to_string())?;
        Ok(Run { report, dir, _parent: parent })
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
