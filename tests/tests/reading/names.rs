//! Files under AutoGPTQ's names, and folders that do not say which file is the model.

use std::{fs, path::Path};

use gptq_tests::{assert_says, fixture, read_json};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::logits;

const MODEL: &str = "checkpoints/b4_g32_sym";

/// A folder as AutoGPTQ leaves it: nothing in `config.json`, the weights under their own name.
fn auto_gptq(weights: &str, change: impl FnOnce(&mut Value)) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let source = fixture(MODEL);
    let mut config = read_json(&source.join("config.json"));
    config.as_object_mut().unwrap().remove("quantization_config");
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let mut quantization = json!({
        "bits": 4, "group_size": 32, "damp_percent": 0.01, "desc_act": false, "sym": true,
        "static_groups": false, "true_sequential": true, "model_name_or_path": null,
        "model_file_base_name": null, "quant_method": "gptq", "checkpoint_format": "gptq",
    });
    change(&mut quantization);
    fs::write(dir.path().join("quantize_config.json"), quantization.to_string()).unwrap();
    fs::copy(source.join("model.safetensors"), dir.path().join(weights)).unwrap();
    dir
}

fn same_as_the_fixture(dir: &Path) {
    assert_eq!(logits(dir, None).unwrap(), logits(&fixture(MODEL), None).unwrap());
}

#[test]
fn a_folder_of_auto_gptq_loads() {
    let dir = auto_gptq("gptq_model-4bit-32g.safetensors", |_| {});
    same_as_the_fixture(dir.path());
    // A second file, such as an adapter, does not make it ambiguous.
    fs::write(dir.path().join("adapter_model.safetensors"), "not read").unwrap();
    same_as_the_fixture(dir.path());
}

#[test]
fn the_stated_base_name_wins() {
    let dir =
        auto_gptq("my-weights.safetensors", |c| c["model_file_base_name"] = "my-weights".into());
    fs::write(dir.path().join("model.safetensors"), "not read").unwrap();
    same_as_the_fixture(dir.path());
}

#[test]
fn a_base_name_that_is_not_there_is_no_obstacle() {
    let dir = auto_gptq("model.safetensors", |c| {
        c["model_file_base_name"] = "gptq_model-4bit-128g".into();
    });
    same_as_the_fixture(dir.path());
}

#[test]
fn a_base_name_leads_nowhere_else() {
    let dir = auto_gptq("model.safetensors", |c| c["model_file_base_name"] = "../model".into());
    same_as_the_fixture(dir.path());
}

#[test]
fn shards_under_the_name_of_auto_gptq_load() {
    let name = "gptq_model-4bit-32g";
    let dir = auto_gptq("part.safetensors", |_| {});
    let tensors = gptq_tests::read_tensors(&dir.path().join("part.safetensors"));
    let map: serde_json::Map<String, Value> =
        tensors.keys().map(|tensor| (tensor.clone(), "part.safetensors".into())).collect();
    let index = json!({"metadata": {}, "weight_map": map});
    let file = dir.path().join(format!("{name}.safetensors.index.json"));
    fs::write(file, index.to_string()).unwrap();
    fs::write(dir.path().join("other.safetensors"), "not read").unwrap();
    same_as_the_fixture(dir.path());
}

#[test]
fn files_that_may_or_may_not_belong_together_are_named() {
    let dir = auto_gptq("first.safetensors", |_| {});
    fs::write(dir.path().join("second.safetensors"), "").unwrap();
    let error = logits(dir.path(), None).unwrap_err();
    assert_says(&error, &["first.safetensors", "second.safetensors", "model_file_base_name"]);
}
