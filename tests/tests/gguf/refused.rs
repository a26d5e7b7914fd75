//! What cannot be written, and what is left behind then: nothing.

use std::fs;

use gptq_core::{ActOrder, Bits, QuantConfig};
use gptq_models::{GgufOptions, GgufType, Method};
use gptq_tests::{assert_says, file_names, fixture};

use crate::{byte_level, folder, groups_of, llama, quantized, reader::Gguf, write, written};

fn refused(model: &std::path::Path, options: &GgufOptions) -> String {
    let parent = tempfile::tempdir().unwrap();
    let error = write(model, &parent.path().join("model.gguf"), options).unwrap_err();
    assert_eq!(file_names(parent.path()), [""; 0], "left behind after {error:?}");
    error
}

fn auto() -> GgufOptions {
    GgufOptions::default()
}

#[test]
fn groups_that_no_block_fits_into() {
    let dir = llama();
    let model = quantized(&dir, Method::Rtn, groups_of(48));
    for ty in ["auto", "q8_0"] {
        let options = GgufOptions { ty: ty.parse().unwrap(), ..auto() };
        let error = refused(&model, &options);
        assert_says(&error, &["model.layers.0.self_attn.q_proj", "inputs 32 and 48", "32", "f16"]);
    }
    let options = GgufOptions { ty: GgufType::F16, ..auto() };
    let (_, report) = written(&model, &options);
    let worst = report.tensors.iter().filter_map(|t| t.loss).map(|l| l.max).fold(0.0, f64::max);
    assert!(!report.exact && worst < 5e-3, "{worst}");
}

#[test]
fn groups_that_activation_order_scattered() {
    let dir = llama();
    let config = QuantConfig { act_order: ActOrder::DescAct, ..groups_of(32) };
    let model = quantized(&dir, Method::Gptq, config);
    assert_says(&refused(&model, &auto()), &["desc_act", "group_size", "f16"]);
}

#[test]
fn asymmetric_8_bits_have_no_exact_type() {
    let dir = llama();
    let model =
        quantized(&dir, Method::Rtn, QuantConfig { bits: Bits::B8, sym: false, ..groups_of(32) });
    let error = refused(&model, &auto());
    assert_says(&error, &["8-bit", "Q8_0", "without loss"]);
    let ty = "q8_0".parse().unwrap();
    let (_, report) = written(&model, &GgufOptions { ty, ..auto() });
    let worst = report.tensors.iter().filter_map(|t| t.loss).map(|l| l.rms).fold(0.0, f64::max);
    assert!(!report.exact && worst < 1e-2, "{worst}");
}

#[test]
fn a_type_without_effect_is_said() {
    let ty = "q8_0".parse().unwrap();
    let (_, report) = written(llama().path(), &GgufOptions { ty, ..auto() });
    assert_says(&report.notices.join(""), &["no linear of this folder is quantized"]);
}

#[test]
fn models_that_gguf_has_no_words_for() {
    let partial = folder("arch/llama", &byte_level(), |files| {
        files.config["partial_rotary_factor"] = 0.5.into();
    });
    assert_says(&refused(partial.path(), &auto()), &["partial_rotary_factor", "8 of 16"]);
    let long = folder("arch/llama", &byte_level(), |files| {
        files.config["rope_scaling"] = serde_json::json!({"type": "longrope",
            "original_max_position_embeddings": 64,
            "short_factor": [1, 1, 1, 1, 1, 1, 1, 1], "long_factor": [2, 2, 2, 2, 2, 2, 2, 2]});
    });
    assert_says(&refused(long.path(), &auto()), &["rope_scaling", "length"]);
}

#[test]
fn a_folder_without_a_tokenizer() {
    assert_says(&refused(&fixture("arch/llama"), &auto()), &["tokenizer.json", "missing"]);
}

#[test]
fn a_vocabulary_that_no_memory_holds() {
    let large = folder("arch/llama", &byte_level(), |files| {
        files.config["vocab_size"] = (1u64 << 31).into();
    });
    let words = ["model.embed_tokens.weight", "[320, 64]", "[2147483648, 64]"];
    assert_says(&refused(large.path(), &auto()), &words);
}

#[test]
fn damaged_weights_are_named() {
    let nan = folder("arch/llama", &byte_level(), |files| {
        files.tensor("model.layers.1.mlp.up_proj.weight").set_half(65, 0x7E00);
    });
    let error = refused(nan.path(), &auto());
    assert_says(&error, &["model.layers.1.mlp.up_proj.weight", "NaN", "[1, 1]"]);
}

#[test]
fn a_name_that_is_taken() {
    let dir = llama();
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("model.gguf");
    fs::write(&out, "years of work").unwrap();
    assert_says(&write(dir.path(), &out, &auto()).unwrap_err(), &["model.gguf", "already exists"]);
    assert_eq!(fs::read_to_string(&out).unwrap(), "years of work");
    assert_eq!(file_names(parent.path()), ["model.gguf"]);
    assert_says(&write(dir.path(), parent.path(), &auto()).unwrap_err(), &["already exists"]);
    let below = out.join("x.gguf");
    assert_says(&write(dir.path(), &below, &auto()).unwrap_err(), &["cannot create", "model.gguf"]);
}

#[test]
fn remains_of_a_killed_run_are_overwritten_and_nothing_else_is() {
    let dir = llama();
    let parent = tempfile::tempdir().unwrap();
    let (out, partial) =
        (parent.path().join("a/model.gguf"), parent.path().join("a/model.gguf.partial"));
    fs::create_dir(parent.path().join("a")).unwrap();
    fs::write(&partial, "years of work").unwrap();
    let error = write(dir.path(), &out, &auto()).unwrap_err();
    assert_says(&error, &["model.gguf.partial", "not left by an interrupted run"]);
    assert_eq!(fs::read_to_string(&partial).unwrap(), "years of work");

    fs::write(&partial, [&b"GGUF"[..], &[7; 1 << 20]].concat()).unwrap();
    write(dir.path(), &out, &auto()).unwrap();
    assert_eq!(file_names(&parent.path().join("a")), ["model.gguf"]);
    Gguf::read(&out);
}
