//! From format to format and back, what is refused, and what two folders differ in.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic like tests")]

mod as_stored;
mod dense;
mod differences;
mod direct;
mod files;
#[path = "../../../gptq-kernels/tests/cuda/gpu.rs"]
mod gpu;
mod losses;
mod refusals;
mod round_trips;

use std::path::{Path, PathBuf};

use gptq_core::{ActOrder, Bits, GroupSize, QuantConfig};
use gptq_kernels::CpuBackend;
use gptq_models::{
    Checkpoint, ConvertOptions, ConvertReport, Method, Model, QuantizeOptions, Target, convert,
    quantize,
};
use gptq_pack::{Format, ZeroPointFormat};
use gptq_tests::{ModelFiles, Stored, random_tokens};
use ndarray::Array2;
use safetensors::Dtype;
use serde_json::json;
use tempfile::TempDir;

/// A folder that goes away with its parent.
struct Folder {
    dir: PathBuf,
    parent: TempDir,
}

impl Folder {
    fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        Self { dir: parent.path().join("out"), parent }
    }
}

fn open(dir: &Path) -> Checkpoint {
    Checkpoint::open(dir).unwrap()
}

fn try_convert(
    source: &Checkpoint,
    target: Target,
    lossy: bool,
) -> Result<(Folder, ConvertReport), String> {
    let out = Folder::new();
    let options = ConvertOptions { lossy, ..ConvertOptions::default() };
    match convert(source, target, &options, &out.dir, &mut ()) {
        Ok(report) => Ok((out, report)),
        Err(error) => {
            assert_eq!(gptq_tests::file_names(out.parent.path()), [""; 0], "left after {error}");
            Err(error.to_string())
        }
    }
}

/// A lossless conversion.
fn to(source: &Path, format: Format) -> Folder {
    let (out, report) = try_convert(&open(source), Target::Packed(format), false).unwrap();
    assert_eq!(report.lossless, report.layers.len());
    assert_eq!((report.proven, report.lossy), (report.layers.len(), 0));
    assert!(!report.layers.is_empty());
    out
}

fn refused(source: &Path, target: Target) -> String {
    match try_convert(&open(source), target, false) {
        Ok(_) => panic!("{} converts to {target}", source.display()),
        Err(error) => error,
    }
}

fn logits(dir: &Path) -> Array2<f32> {
    let model = Model::load(&open(dir), CpuBackend::new()).unwrap();
    model.logits(&random_tokens(3, 1, 24)[0]).unwrap()
}

/// Rounds a model to nearest.
fn rounded(
    source: &Path,
    bits: Bits,
    group: i64,
    sym: bool,
    zero_format: ZeroPointFormat,
) -> Folder {
    let config = QuantConfig {
        bits,
        group_size: GroupSize::from_file(group).unwrap(),
        sym,
        act_order: ActOrder::Natural,
        ..QuantConfig::default()
    };
    let options = QuantizeOptions {
        method: Method::Rtn,
        config,
        format: zero_format.into(),
        ..QuantizeOptions::default()
    };
    let out = Folder::new();
    quantize(&open(source), &[], &CpuBackend::new(), &options, &out.dir, &mut ()).unwrap();
    out
}

/// A LLaMA of one block whose linears are as large as Marlin wants them.
fn wide_llama() -> TempDir {
    let mut files = ModelFiles::of("arch/llama");
    let (hidden, inter) = (256, 512);
    for (key, value) in [
        ("hidden_size", hidden),
        ("intermediate_size", inter),
        ("num_hidden_layers", 1),
        ("num_attention_heads", 4),
        ("num_key_value_heads", 4),
        ("head_dim", 64),
    ] {
        files.config[key] = json!(value);
    }
    files.tensors.clear();
    let mut state = 1u32;
    let mut put = |name: &str, shape: &[usize]| {
        let weight = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            half::f16::from_f32((state >> 8) as f32 / (1 << 24) as f32 * 0.1 - 0.05)
        };
        let count = shape.iter().product();
        let bytes = (0..count).map(weight).flat_map(half::f16::to_le_bytes).collect();
        let stored = Stored { dtype: Dtype::F16, shape: shape.to_vec(), bytes };
        files.tensors.insert(name.to_owned(), stored);
    };
    for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
        put(&format!("model.layers.0.self_attn.{name}.weight"), &[hidden, hidden]);
    }
    for name in ["gate_proj", "up_proj"] {
        put(&format!("model.layers.0.mlp.{name}.weight"), &[inter, hidden]);
    }
    put("model.layers.0.mlp.down_proj.weight", &[hidden, inter]);
    for name in ["layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"] {
        put(&format!("model.{name}.weight"), &[hidden]);
    }
    put("model.embed_tokens.weight", &[320, hidden]);
    put("lm_head.weight", &[320, hidden]);
    let dir = tempfile::tempdir().unwrap();
    files.write(dir.path());
    dir
}

/// What the emulator says it is, where there is no GPU.
const CAPABILITY: &str = "9.0";
