//! Plain weights: exact in single precision, rounded once in half.

use gptq_models::Target;
use gptq_pack::{Dtype, Format};
use gptq_tests::{file_names, fixture, largest_difference, read_json, read_tensors};

use crate::{logits, open, to, try_convert};

#[test]
fn single_precision_holds_every_product() {
    for name in ["b3_g32_sym", "b4_g32_asym", "b4_g32_sym_act", "b8_gm1_sym"] {
        let source = fixture(&format!("checkpoints/{name}"));
        let (out, report) =
            try_convert(&open(&source), Target::Dense(Some(Dtype::F32)), false).unwrap();
        assert_eq!((report.lossy, report.proven), (0, 14));
        let gap = largest_difference(&logits(&out.dir), &logits(&source));
        assert!(gap < 1e-4, "{name}: {gap:.1e}");
        let config = read_json(&out.dir.join("config.json"));
        assert!(config.get("quantization_config").is_none());
        assert!(!file_names(&out.dir).contains(&"quantize_config.json".to_owned()));
        // Names and shapes are those of the model that was quantized.
        let dense = read_tensors(&fixture("arch/llama/model.safetensors"));
        let result = read_tensors(&out.dir.join("model.safetensors"));
        assert!(dense.keys().eq(result.keys()), "{name}");
        assert!(dense.iter().all(|(name, t)| t.shape == result[name].shape), "{name}");
    }
}

#[test]
fn half_precision_rounds_once_and_says_so() {
    let source = fixture("checkpoints/b4_g32_sym");
    // GPTQModel stored the rest of this model as BF16.
    for (dtype, most) in [(None, 2f64.powi(-8)), (Some(Dtype::F16), 2f64.powi(-11))] {
        let (out, report) = try_convert(&open(&source), Target::Dense(dtype), true).unwrap();
        assert_eq!((report.lossy, report.proven), (14, 14));
        for layer in &report.layers {
            assert!(layer.max_error > 0.0 && layer.rms_error < most, "{layer:?}");
        }
        let stored = read_tensors(&out.dir.join("model.safetensors"));
        let weight = &stored["model.layers.0.mlp.up_proj.weight"];
        let dtype = dtype.unwrap_or(Dtype::BF16).to_string();
        assert_eq!(format!("{:?}", weight.dtype), dtype);
        assert!(largest_difference(&logits(&out.dir), &logits(&source)) < 0.03);
    }
}

#[test]
fn every_format_gives_the_same_weights() {
    let source = fixture("checkpoints/b4_g32_asym");
    let dense = |dir: &std::path::Path| {
        let target = Target::Dense(Some(Dtype::F32));
        let (out, _) = try_convert(&open(dir), target, false).unwrap();
        read_tensors(&out.dir.join("model.safetensors"))
    };
    let expected = dense(&source);
    for format in [Format::GptqV2, Format::Awq, Format::CompressedTensors] {
        assert!(dense(&to(&source, format).dir) == expected, "{format}");
    }
}
