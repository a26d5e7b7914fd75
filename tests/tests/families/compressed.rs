//! Sources whose weights are 8-bit floats in blocks or 4-bit floats with shared exponents.

use gptq_core::{Bits, GroupSize};
use gptq_kernels::CpuBackend;
use gptq_models::{Fate, Method, Model, QuantizeOptions, quantize};
use gptq_tests::{ModelFiles, Stored, read_tensors};
use safetensors::Dtype;
use serde_json::json;

use crate::{
    golden::{Golden, open},
    quantized::median_error,
};

fn bytes(shape: &[usize], dtype: Dtype, byte: impl Fn(usize) -> u8) -> Stored {
    let bytes = (0..shape.iter().product()).map(byte).collect();
    Stored { dtype, shape: shape.to_vec(), bytes }
}

/// A model as gpt-oss is published: experts in nibbles, an exponent for 32 of them.
fn mxfp4() -> ModelFiles {
    let mut files = Golden::of("gpt_oss").files;
    for layer in 0..2 {
        for part in ["gate_up_proj", "down_proj"] {
            let name = format!("model.layers.{layer}.mlp.experts.{part}");
            let [experts, ins, outs] = files.tensors.remove(&name).unwrap().shape[..] else {
                panic!("{name} has three dimensions")
            };
            let blocks = bytes(&[experts, outs, ins / 32, 16], Dtype::U8, |i| (i * 89 % 251) as u8);
            let scales = bytes(&[experts, outs, ins / 32], Dtype::U8, |i| 122 + (i % 3) as u8);
            files.tensors.insert(format!("{name}_blocks"), blocks);
            files.tensors.insert(format!("{name}_scales"), scales);
        }
    }
    files.config["quantization_config"] = json!({"quant_method": "mxfp4"});
    files
}

/// A model as DeepSeek V3 is published: every linear of a block in 8-bit floats, a scale per tile.
fn fp8() -> ModelFiles {
    let mut files = Golden::of("llama").files;
    let linears: Vec<String> =
        files.tensors.keys().filter(|name| name.contains("_proj.weight")).cloned().collect();
    for name in linears {
        let shape = files.tensors[&name].shape.clone();
        // Finite codes of both signs around 0.01 to 1.
        let weight = bytes(&shape, Dtype::F8_E4M3, |i| (i * 37 % 56) as u8 | ((i % 2) << 7) as u8);
        let tiles = shape.iter().map(|n| n.div_ceil(128)).collect::<Vec<_>>();
        let count: usize = tiles.iter().product();
        let scales = (0..count).flat_map(|i| (0.05 + 0.01 * i as f32).to_le_bytes()).collect();
        let scales = Stored { dtype: Dtype::F32, shape: tiles, bytes: scales };
        files.tensors.insert(name.clone(), weight);
        files.tensors.insert(format!("{name}_scale_inv"), scales);
    }
    files.config["quantization_config"] =
        json!({"quant_method": "fp8", "weight_block_size": [128, 128]});
    files
}

/// Quantizes to 8 bits: nothing compressed is left, and logits are as close as 8 bits leave them.
fn check(files: &ModelFiles, ids: &[u32], skip: &str) {
    let (source, parent) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    files.write(source.path());
    let checkpoint = open(source.path());
    let dense = Model::load(&checkpoint, CpuBackend::new()).unwrap().logits(ids).unwrap();

    let mut options = QuantizeOptions { method: Method::Rtn, ..QuantizeOptions::default() };
    (options.config.bits, options.config.group_size) =
        (Bits::B8, GroupSize::from_file(32).unwrap());
    options.dynamic =
        gptq_pack::DynamicRules::from_json(&json!({format!("-:{skip}"): {}})).unwrap();
    let out = parent.path().join("out");
    let report = quantize(&checkpoint, &[], &CpuBackend::new(), &options, &out, &mut ()).unwrap();
    assert!(report.coverage.skipped > 0);
    for entry in &report.ledger.tensors {
        let compressed = ["_blocks", "_scales", "_scale_inv"];
        if compressed.iter().any(|end| entry.name.ends_with(end)) {
            assert_ne!(entry.fate, Fate::Copied, "{entry:?}");
        }
    }
    let tensors = read_tensors(&out.join("model.safetensors"));
    assert!(tensors.values().all(|t| !matches!(t.dtype, Dtype::U8 | Dtype::F8_E4M3)));
    assert!(tensors.keys().all(|name| !name.ends_with("scale_inv")));
    let result = open(&out);
    assert_eq!(result.config()["quantization_config"]["quant_method"], "gptq");
    let quantized = Model::load(&result, CpuBackend::new()).unwrap().logits(ids).unwrap();
    let off = median_error(&quantized, &dense);
    assert!(off < 0.04, "{off}");
}

#[test]
fn experts_in_four_bit_floats() {
    let ids = Golden::of("gpt_oss").ids;
    check(&mxfp4(), &ids, r".*\.experts\.0\..*");
}

#[test]
fn linears_in_eight_bit_floats() {
    let ids = Golden::of("llama").ids;
    check(&fp8(), &ids, r".*\.o_proj");
}
