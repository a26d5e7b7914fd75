//! GPTQ checkpoints that contradict themselves.

use gptq_models::{Checkpoint, inspect};
use gptq_tests::{ModelFiles, assert_says, fixture};
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{changed, refused, unloadable};

const DOWN: &str = "model.layers.1.mlp.down_proj";

fn packed(change: impl FnOnce(&mut ModelFiles)) -> TempDir {
    changed("checkpoints/b4_g32_sym", change)
}

/// What `load` says; `inspect` refuses the folder too, though another layer may come first there.
fn unreadable(dir: &TempDir) -> String {
    assert!(inspect(&Checkpoint::open(dir.path()).unwrap()).is_err());
    unloadable(dir.path())
}

#[test]
fn a_quantized_source_is_not_quantized_again() {
    let name = fixture("checkpoints/b4_g32_sym");
    let error = refused(&name);
    assert_says(&error, &[&name.display().to_string(), "is quantized already"]);
}

#[test]
fn a_layer_without_zero_points_is_named() {
    let dir = packed(|m| {
        m.tensors.remove(&format!("{DOWN}.qzeros"));
    });
    assert_says(&unreadable(&dir), &[&format!("{DOWN}.qzeros"), "is missing"]);
}

#[test]
fn a_layer_without_scales_is_named() {
    let dir = packed(|m| {
        m.tensors.remove(&format!("{DOWN}.scales"));
    });
    assert_says(&unreadable(&dir), &[&format!("{DOWN}.scales"), "is missing"]);
}

#[test]
fn a_layer_neither_dense_nor_packed_is_named() {
    let dir = packed(|m| {
        m.tensors.remove(&format!("{DOWN}.qweight"));
    });
    assert_says(&unloadable(dir.path()), &[&format!("{DOWN}.weight"), "is missing"]);
}

#[test]
fn codes_of_the_wrong_shape_are_named_with_both_shapes() {
    let dir = packed(|m| m.tensor(&format!("{DOWN}.qweight")).shape = vec![64, 12]);
    let error = unloadable(dir.path());
    assert_says(&error, &[DOWN, "qweight", "[64, 12]", "[12, 64]"]);
}

#[test]
fn codes_for_another_width_are_named_with_both_shapes() {
    let dir = packed(|m| m.config["quantization_config"]["bits"] = json!(8));
    let error = unreadable(&dir);
    assert_says(&error, &["model.layers.0.self_attn.q_proj", "[8, 64]", "[16, 64]"]);
}

#[test]
fn zero_points_and_scales_of_the_wrong_shape_are_named() {
    let dir = packed(|m| m.tensor(&format!("{DOWN}.qzeros")).shape = vec![8, 3]);
    assert_says(&unreadable(&dir), &[DOWN, "qzeros", "[8, 3]", "[3, 8]"]);
    let dir = packed(|m| m.tensor(&format!("{DOWN}.scales")).shape = vec![64, 3]);
    assert_says(&unreadable(&dir), &[DOWN, "scales", "[64, 3]"]);
}

#[test]
fn codes_of_the_wrong_type_are_named() {
    let dir = packed(|m| m.tensor(&format!("{DOWN}.qweight")).dtype = Dtype::F32);
    assert_says(&unreadable(&dir), &[DOWN, "qweight", "F32", "I32"]);
    let dir = packed(|m| m.tensor(&format!("{DOWN}.qweight")).dtype = Dtype::U32);
    assert_says(&unreadable(&dir), &[DOWN, "qweight", "U32", "I32"]);
}

#[test]
fn group_indices_out_of_range_are_named_with_the_range() {
    // From −1 to −3 they count from the last group.
    for value in [3i32, -4, i32::MAX, i32::MIN] {
        let dir = packed(|m| {
            let g_idx = m.tensor(&format!("{DOWN}.g_idx"));
            g_idx.bytes[4 * 17..4 * 18].copy_from_slice(&value.to_le_bytes());
        });
        let words = [DOWN, "g_idx", "input 17", &format!("is {value}"), "0 to 2"];
        assert_says(&unreadable(&dir), &words);
    }
}

#[test]
fn a_group_index_of_the_wrong_length_is_named() {
    let dir = packed(|m| {
        let g_idx = m.tensor(&format!("{DOWN}.g_idx"));
        g_idx.shape = vec![95];
        g_idx.bytes.truncate(4 * 95);
    });
    assert_says(&unloadable(dir.path()), &[DOWN, "g_idx", "[95]", "[96]"]);
}

#[test]
fn scales_that_are_not_finite_are_named_with_their_place() {
    let dir = packed(|m| m.tensor(&format!("{DOWN}.scales")).set_half(64 + 7, 0x7e00));
    assert_says(&unreadable(&dir), &[DOWN, "scales", "NaN", "row 1, column 7"]);
}

#[test]
fn packed_layers_without_a_config_are_named() {
    let dir = packed(|m| {
        m.config.as_object_mut().unwrap().remove("quantization_config");
    });
    let error = unreadable(&dir);
    let words = ["qweight", "neither config.json nor quantize_config.json"];
    assert_says(&error, &words);
}

#[test]
fn packed_layers_without_a_config_are_no_source() {
    let dir = packed(|m| {
        m.config.as_object_mut().unwrap().remove("quantization_config");
    });
    let words = ["model.layers.0.mlp.down_proj.qweight", "neither config.json"];
    assert_says(&refused(dir.path()), &words);
}

/// The message about a `quantization_config` with one key changed.
fn with(key: &str, value: Value) -> String {
    let dir = packed(|m| {
        let config = &mut m.config["quantization_config"];
        config[key] = value;
        // The other spelling would contradict it.
        for other in ["method", "format"].iter().filter(|other| **other != key) {
            config.as_object_mut().unwrap().remove(*other);
        }
    });
    let error = unreadable(&dir);
    assert_says(&error, &["config.json"]);
    assert_eq!(refused(dir.path()), error);
    error
}

#[test]
fn layouts_that_the_tensors_do_not_have_are_named() {
    let marlin = with("checkpoint_format", json!("marlin"));
    assert_says(&marlin, &["\"marlin\"", "tensors B", "qweight"]);
    let both = with("is_marlin_format", json!(true));
    assert_says(&both, &["checkpoint_format is \"gptq\"", "is_marlin_format is true"]);
    let bitblas = with("checkpoint_format", json!("bitblas"));
    assert_says(&bitblas, &["checkpoint_format", "\"bitblas\""]);
}

#[test]
fn checkpoints_of_other_methods_are_named() {
    for method in ["bitsandbytes", "fp8"] {
        assert_says(&with("quant_method", json!(method)), &["quant_method", method, "gptq"]);
    }
    assert_says(&with("quant_method", json!("awq")), &["checkpoint_format is gptq", "gemm"]);
    assert_says(&with("quant_method", json!("compressed-tensors")), &["config_groups"]);
}

#[test]
fn codes_in_the_order_of_another_method_are_named_with_both_shapes() {
    let dir = packed(|m| {
        m.config["quantization_config"] = json!({
            "quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm",
            "zero_point": true,
        });
    });
    // AWQ's qweight has inputs as rows and an eighth of the outputs as columns.
    assert_says(&unreadable(&dir), &["model.layers.0", "qweight", "shape [8, 64]", "[64, 8]"]);
}

#[test]
fn senseless_quantization_configs_are_named() {
    assert_says(&with("bits", json!(5)), &["bits is 5"]);
    assert_says(&with("bits", Value::Null), &["lacks bits"]);
    assert_says(&with("group_size", json!(0)), &["group_size is 0"]);
    assert_says(&with("dynamic", json!({"(": {}})), &["dynamic rule \"(\""]);
}

#[test]
fn a_quantization_config_that_is_no_object_is_named() {
    let dir = packed(|m| m.config["quantization_config"] = json!("gptq"));
    assert_says(&unreadable(&dir), &["config.json", "a string", "must be a JSON object"]);
}

#[test]
fn a_layer_that_a_rule_skips_but_the_file_packs_is_named() {
    let dir = packed(|m| {
        m.config["quantization_config"]["dynamic"] = json!({"-:.*down_proj": {}});
    });
    let name = "model.layers.0.mlp.down_proj";
    assert_says(&unreadable(&dir), &[name, "skips", "packed"]);
}
