//! Tensors that are absent, of the wrong shape or type, or not finite.

use gptq_models::Method;
use gptq_tests::assert_says;
use safetensors::Dtype;

use crate::{llama, refused, refused_by, unloadable};

const DOWN: &str = "model.layers.1.mlp.down_proj.weight";
const NAN: u16 = 0x7e00;
const INFINITY: u16 = 0x7c00;

#[test]
fn a_missing_linear_is_named_with_what_was_found() {
    let dir = llama(|m| {
        m.tensors.remove(DOWN);
    });
    assert_says(&refused(dir.path()), &[DOWN, "is missing", "20 tensors"]);
}

#[test]
fn a_missing_embedding_is_named_by_both_methods() {
    let dir = llama(|m| {
        m.tensors.remove("model.embed_tokens.weight");
    });
    assert_says(&refused(dir.path()), &["model.embed_tokens.weight", "is missing"]);
}

#[test]
fn a_missing_norm_is_named_by_both_methods() {
    for name in ["model.layers.1.post_attention_layernorm.weight", "model.norm.weight"] {
        let dir = llama(|m| {
            m.tensors.remove(name);
        });
        assert_says(&refused(dir.path()), &[name, "is missing"]);
    }
}

#[test]
fn a_missing_head_is_named_by_both_methods() {
    let dir = llama(|m| {
        m.tensors.remove("lm_head.weight");
    });
    assert_says(&refused(dir.path()), &["lm_head.weight", "is missing"]);
}

#[test]
fn a_missing_bias_is_named_by_both_methods() {
    let dir = llama(|m| m.config["mlp_bias"] = true.into());
    assert_says(&refused(dir.path()), &["model.layers.0.mlp.gate_proj.bias", "is missing"]);
}

#[test]
fn a_missing_tensor_cannot_be_loaded_either() {
    for name in ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", DOWN] {
        let dir = llama(|m| {
            m.tensors.remove(name);
        });
        assert_says(&unloadable(dir.path()), &[name, "is missing"]);
    }
}

#[test]
fn a_linear_of_another_shape_than_the_config_implies_is_named_with_both() {
    let dir = llama(|m| m.tensor(DOWN).shape = vec![96, 64]);
    let error = refused(dir.path());
    assert_says(&error, &["model.safetensors", DOWN, "[96, 64]", "config.json", "[64, 96]"]);
    assert_eq!(unloadable(dir.path()), error);
}

#[test]
fn a_vector_where_a_matrix_belongs_is_named() {
    let dir = llama(|m| m.tensor(DOWN).shape = vec![64 * 96]);
    assert_says(&refused(dir.path()), &[DOWN, "[6144]", "[64, 96]"]);
}

#[test]
fn an_embedding_of_another_vocabulary_is_named_by_both_methods() {
    let dir = llama(|m| m.config["vocab_size"] = 321.into());
    assert_says(&refused(dir.path()), &["model.embed_tokens.weight", "[320, 64]", "[321, 64]"]);
}

#[test]
fn a_config_with_more_blocks_than_the_file_names_the_first_missing_tensor() {
    let dir = llama(|m| m.config["num_hidden_layers"] = 3.into());
    assert_says(&refused(dir.path()), &["model.layers.2.", "21 tensors"]);
}

#[test]
fn a_linear_that_is_not_finite_is_named_with_value_and_place() {
    for (bits, value) in [(NAN, "NaN"), (INFINITY, "inf"), (INFINITY | 0x8000, "-inf")] {
        let dir = llama(|m| m.tensor(DOWN).set_half(2 * 96 + 5, bits));
        let error = refused(dir.path());
        let words = ["model.safetensors", DOWN, &format!("holds {value} at"), "[2, 5]"];
        assert_says(&error, &words);
        assert_eq!(unloadable(dir.path()), error);
    }
}

#[test]
fn an_embedding_or_norm_that_is_not_finite_stops_gptq() {
    for name in ["model.embed_tokens.weight", "model.layers.0.input_layernorm.weight"] {
        let dir = llama(|m| m.tensor(name).set_half(3, NAN));
        let error = refused_by(dir.path(), Method::Gptq);
        assert_says(&error, &["model.safetensors", name, "holds NaN at", "[0, 3]"]);
        assert_eq!(unloadable(dir.path()), error);
    }
}

#[test]
fn integers_where_floats_belong_are_named() {
    let dir = llama(|m| m.tensor(DOWN).dtype = Dtype::I16);
    let error = refused(dir.path());
    assert_says(&error, &["model.safetensors", DOWN, "I16", "F32, F16 or BF16"]);
    assert_eq!(unloadable(dir.path()), error);
}

#[test]
fn float8_without_its_scales_is_refused() {
    let dir = llama(|m| {
        let tensor = m.tensor(DOWN);
        tensor.dtype = Dtype::F8_E4M3;
        tensor.bytes.truncate(64 * 96);
    });
    assert_says(&refused(dir.path()), &[DOWN, "weight_scale_inv", "is missing"]);
}

#[test]
fn weights_too_large_for_half_precision_scales_are_refused_by_layer() {
    // Single precision holds what the scales of a checkpoint cannot.
    let dir = llama(|m| {
        let tensor = m.tensor(DOWN);
        tensor.dtype = Dtype::F32;
        tensor.bytes = 1e30f32.to_le_bytes().repeat(64 * 96);
    });
    let error = refused_by(dir.path(), Method::Rtn);
    assert_says(&error, &["model.layers.1.mlp.down_proj", "65504"]);
}
