//! `config.json` that is absent, is not JSON, or says what no model can be.

use std::fs;

use gptq_models::Method;
use gptq_tests::assert_says;
use serde_json::{Value, json};

use crate::{llama, refused, refused_by, unloadable};

/// Refused to quantize and to load, naming file and key.
fn with(key: &str, value: Value) -> String {
    let dir = llama(|m| m.config[key] = value);
    let error = refused(dir.path());
    assert_eq!(unloadable(dir.path()), error);
    assert_says(&error, &["config.json", key]);
    error
}

#[test]
fn a_missing_config_is_named() {
    let dir = llama(|_| {});
    fs::remove_file(dir.path().join("config.json")).unwrap();
    assert_says(&refused(dir.path()), &["cannot read", "config.json"]);
}

#[test]
fn a_config_that_is_not_json_is_named() {
    for text in ["", "{", "model_type: llama", "\u{0}"] {
        let dir = llama(|_| {});
        fs::write(dir.path().join("config.json"), text).unwrap();
        assert_says(&refused(dir.path()), &["config.json", "is not JSON"]);
    }
}

#[test]
fn a_config_that_is_no_object_is_named() {
    for text in ["[]", "3", "null", "\"llama\""] {
        let dir = llama(|_| {});
        fs::write(dir.path().join("config.json"), text).unwrap();
        assert_says(&refused(dir.path()), &["config.json", "model_type"]);
    }
}

#[test]
fn deeply_nested_json_is_refused() {
    let dir = llama(|_| {});
    fs::write(dir.path().join("config.json"), "[".repeat(100_000)).unwrap();
    assert_says(&refused(dir.path()), &["config.json", "is not JSON"]);
}

#[test]
fn a_model_that_is_no_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.gguf");
    fs::write(&file, "x").unwrap();
    for path in [file, dir.path().join("nowhere")] {
        assert_says(&refused(&path), &[&path.display().to_string(), "is not a folder"]);
    }
}

#[test]
fn an_unknown_family_is_named_with_the_known_ones() {
    let dir = llama(|m| m.config["model_type"] = json!("perceptron"));
    assert_says(&refused_by(dir.path(), Method::Gptq), &["\"perceptron\"", "llama"]);
    assert_says(&unloadable(dir.path()), &["\"perceptron\"", "llama"]);
    assert_says(&with("model_type", json!(7)), &["is 7", "a string"]);
    assert_says(&with("model_type", Value::Null), &["is missing"]);
}

#[test]
fn required_keys_are_named_when_missing() {
    for key in [
        "hidden_size",
        "num_attention_heads",
        "num_hidden_layers",
        "intermediate_size",
        "vocab_size",
    ] {
        assert_says(&with(key, Value::Null), &["is missing"]);
    }
}

#[test]
fn counts_that_are_no_counts_are_named_with_their_value() {
    let senseless = [json!(0), json!(-4), json!("64"), json!(2.5), json!([64]), json!(1u64 << 60)];
    for key in [
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        "num_hidden_layers",
        "intermediate_size",
        "vocab_size",
        "head_dim",
        "max_position_embeddings",
    ] {
        for value in &senseless {
            assert_says(&with(key, value.clone()), &[&format!("is {value}"), "must be"]);
        }
    }
}

#[test]
fn heads_that_do_not_divide_are_named_with_both_numbers() {
    assert_says(&with("num_key_value_heads", json!(3)), &["3", "num_attention_heads 4"]);
    assert_says(&with("num_key_value_heads", json!(8)), &["8", "num_attention_heads 4"]);
}

#[test]
fn a_width_that_does_not_divide_into_heads_is_named() {
    let dir = llama(|m| {
        m.config["head_dim"] = Value::Null;
        m.config["hidden_size"] = json!(66);
    });
    assert_says(&refused(dir.path()), &["config.json", "hidden_size", "66", "4"]);
}

/// With the largest count under each key, refused to quantize and to load by a message.
fn largest(keys: &[&str], named: &str) {
    let dir = llama(|m| keys.iter().for_each(|key| m.config[*key] = json!(1u64 << 31)));
    assert_says(&refused(dir.path()), &[named]);
    assert_says(&unloadable(dir.path()), &[named]);
}

#[test]
fn the_largest_widths_end_in_a_message() {
    // Which tensor comes first differs between quantizing and loading; the rule does not.
    largest(&["hidden_size"], "config.json implies");
    largest(&["intermediate_size"], "model.layers.0.mlp.gate_proj.weight");
    largest(&["hidden_size", "intermediate_size", "vocab_size"], "config.json implies");
}

#[test]
fn the_largest_vocabulary_ends_in_a_message() {
    largest(&["vocab_size"], "model.embed_tokens.weight");
}

#[test]
fn the_largest_number_of_blocks_ends_in_a_message() {
    // No list of that length fits memory.
    largest(&["num_hidden_layers"], "no model has more than 4096 blocks");
}

#[test]
fn widths_whose_product_overflows_end_in_a_message() {
    largest(&["head_dim"], "no layer's width");
    largest(&["num_attention_heads", "num_key_value_heads", "head_dim"], "no layer's width");
}

#[test]
fn other_keys_of_the_wrong_kind_are_named() {
    assert_says(&with("rms_norm_eps", json!("tiny")), &["\"tiny\"", "a number"]);
    assert_says(&with("tie_word_embeddings", json!(1)), &["is 1", "true or false"]);
    assert_says(&with("attention_bias", json!("no")), &["true or false"]);
    assert_says(&with("eos_token_id", json!("</s>")), &["a token id"]);
    assert_says(&with("eos_token_id", json!([2, -1])), &["a token id"]);
    assert_says(&with("hidden_act", json!("quick_gelu")), &["\"quick_gelu\"", "silu", "gelu"]);
}

#[test]
fn rotations_that_are_none_are_named() {
    for theta in [json!(0), json!(-1.0), json!(1)] {
        assert_says(&with("rope_theta", theta), &["rotation"]);
    }
    assert_says(&with("rope_theta", json!("10k")), &["\"10k\"", "a number"]);
    let odd = llama(|m| m.config["head_dim"] = json!(15));
    assert_says(&refused(odd.path()), &["config.json", "15 of 15 channels"]);
    let scaling = |value| with("rope_scaling", value);
    assert_says(&scaling(json!({"rope_type": "spiral"})), &["\"spiral\"", "yarn"]);
    assert_says(&scaling(json!({"rope_type": "linear"})), &["factor", "is missing"]);
    assert_says(&scaling(json!({"type": "linear", "factor": 0})), &["factor", "above 0"]);
    assert_says(&scaling(json!({"type": "llama3", "factor": 8})), &["low_freq_factor"]);
}
