//! `diff` by meaning.

use gptq_models::{Diff, Target, diff};
use gptq_pack::{Dtype, Format};
use gptq_tests::{ModelFiles, fixture};
use std::path::Path;

use crate::{open, to, try_convert};

fn between(a: &Path, b: &Path) -> Diff {
    diff(&open(a), &open(b), &mut ()).unwrap()
}

#[test]
fn a_folder_does_not_differ_from_itself() {
    for name in ["checkpoints/b4_g32_sym_act", "checkpoints/b3_g32_sym", "arch/llama"] {
        let found = between(&fixture(name), &fixture(name));
        assert!(found.equal && found.same_weights, "{found:?}");
        assert_eq!((found.config.len(), found.tensors.len()), (0, 0));
    }
}

#[test]
fn another_format_is_the_same_weights() {
    let source = fixture("checkpoints/b4_g32_asym");
    for format in [Format::GptqV2, Format::Awq, Format::CompressedTensors] {
        let found = between(&source, &to(&source, format).dir);
        assert!(!found.equal && found.same_weights, "{format}");
        assert_eq!(found.layers.len(), 14);
        for layer in &found.layers {
            let shares = [layer.codes_equal, layer.scales_equal, layer.zeros_equal];
            assert_eq!(shares, [Some(1.0); 3], "{format}: {layer:?}");
            assert_eq!((layer.max, layer.g_idx_equal), (Some(0.0), Some(true)), "{layer:?}");
        }
        assert!(found.config.iter().any(|change| change.key.starts_with("quantization_config")));
    }
    let (dense, _) = try_convert(&open(&source), Target::Dense(Some(Dtype::F32)), false).unwrap();
    let found = between(&dense.dir, &source);
    assert!(found.same_weights && !found.equal);
    assert_eq!(found.layers[0].codes_equal, None);
}

#[test]
fn quantizing_shows_as_a_small_difference_everywhere() {
    let found = between(&fixture("arch/llama"), &fixture("checkpoints/b4_g32_sym"));
    assert!(!found.same_weights);
    assert_eq!((found.layers.len(), found.tensors.len()), (14, 7));
    // GPTQModel stored norms, embedding and head as BF16.
    for tensor in &found.tensors {
        assert!(tensor.a.starts_with("F16") && tensor.b.starts_with("BF16"), "{tensor:?}");
        assert!(tensor.rms.unwrap() < 2f64.powi(-8), "{tensor:?}");
    }
    assert!(found.only_in_a.is_empty() && found.only_in_b.is_empty(), "{found:?}");
    for layer in &found.layers {
        let rms = layer.rms.unwrap();
        assert!(rms > 0.02 && rms < 0.3, "{layer:?}");
        assert!(layer.max.unwrap() >= rms);
    }
    let order: Vec<f64> = found.layers.iter().map(|layer| layer.rms.unwrap()).collect();
    assert!(order.is_sorted_by(|a, b| a >= b), "the most different first");
}

#[test]
fn single_changes_are_found_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = ModelFiles::of("checkpoints/b4_g32_sym");
    files.tensor("model.layers.1.mlp.up_proj.qweight").bytes[5] ^= 0x10;
    files.tensor("model.norm.weight").set_half(3, 0x3c01);
    files.tensors.remove("lm_head.weight");
    files.config["rms_norm_eps"] = serde_json::json!(0.5);
    files.write(dir.path());
    let found = between(&fixture("checkpoints/b4_g32_sym"), dir.path());
    let changed: Vec<_> = found.layers.iter().filter(|layer| !layer.equal).collect();
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0].name, "model.layers.1.mlp.up_proj");
    let codes = 96.0 * 64.0;
    assert_eq!(changed[0].codes_equal, Some((codes - 1.0) / codes));
    assert_eq!(changed[0].scales_equal, Some(1.0));
    let names: Vec<&str> = found.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["model.norm.weight"]);
    assert_eq!(found.only_in_a, ["lm_head.weight"]);
    let keys: Vec<&str> = found.config.iter().map(|change| change.key.as_str()).collect();
    assert_eq!(keys, ["rms_norm_eps"]);
}
