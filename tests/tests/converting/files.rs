//! What a converted folder holds beside the layers.

use std::fs;

use gptq_models::{ConvertOptions, Target, convert};
use gptq_pack::Format;
use gptq_tests::{copy_folder, file_names, fixture, read_json, read_tensors};
use rayon::ThreadPoolBuilder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{open, to};

#[test]
fn side_files_are_copied_rewritten_or_accounted_for() {
    let parent = tempfile::tempdir().unwrap();
    let source = parent.path().join("model");
    copy_folder(&fixture("checkpoints/b4_g32_sym"), &source);
    fs::write(source.join("tokenizer.json"), "{\"any\": 1}").unwrap();
    fs::write(source.join("pytorch_model.bin"), "old").unwrap();
    let report = json!({"calibration": {"seed": 1}, "sha256": {"x": "y"}, "ledger": {}});
    fs::write(source.join("gptq_report.json"), report.to_string()).unwrap();
    let out = to(&source, Format::Awq);
    let files = [
        "config.json",
        "generation_config.json",
        "gptq_report.json",
        "model.safetensors",
        "tokenizer.json",
    ];
    assert_eq!(file_names(&out.dir), files);
    assert_eq!(fs::read_to_string(out.dir.join("tokenizer.json")).unwrap(), "{\"any\": 1}");
    let report = read_json(&out.dir.join("gptq_report.json"));
    // `expected.safetensors` is no file of the model, and weights of other files are dropped.
    let fate = |name: &str| {
        let files = report["ledger"]["files"].as_array().unwrap();
        files.iter().find(|entry| entry["name"] == name).unwrap()["fate"].clone()
    };
    assert_eq!(fate("tokenizer.json"), "copied");
    assert_eq!(fate("pytorch_model.bin"), "dropped");
    assert_eq!(fate("quantize_config.json"), "dropped");
    assert_eq!(report["ledger"]["files"].as_array().unwrap().len(), file_names(&source).len());
    let tensors = read_tensors(&source.join("model.safetensors"));
    assert_eq!(report["ledger"]["tensors"].as_array().unwrap().len(), tensors.len());
    assert_eq!(report["source_report"], json!({"calibration": {"seed": 1}}));
    for (name, tensor) in read_tensors(&out.dir.join("model.safetensors")) {
        let hash: String =
            Sha256::digest(&tensor.bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(report["sha256"][&name], hash, "{name}");
    }
}

#[test]
fn the_config_says_what_is_packed_in_the_dialect_of_the_format() {
    let of = |format| {
        let out = to(&fixture("checkpoints/b4_g32_asym"), format);
        read_json(&out.dir.join("config.json"))["quantization_config"].clone()
    };
    let awq = of(Format::Awq);
    assert_eq!((&awq["quant_method"], &awq["version"]), (&json!("awq"), &json!("gemm")));
    assert_eq!(awq["modules_to_not_convert"], json!(["lm_head"]));
    let compressed = of(Format::CompressedTensors);
    assert_eq!(compressed["quant_method"], "compressed-tensors");
    assert_eq!(compressed["ignore"], json!(["lm_head"]));
    let group = &compressed["config_groups"]["group_0"];
    assert_eq!(group["weights"]["num_bits"], 4);
    assert_eq!(group["weights"]["symmetric"], false);
    assert_eq!(group["targets"], json!(["Linear"]));
}

#[test]
fn settings_of_single_modules_survive_the_dialects() {
    let source = fixture("checkpoints/b4_g32_sym_dynamic");
    let bits = |dir: &std::path::Path| -> Vec<(String, u32, i64)> {
        let found = gptq_models::inspect(&open(dir)).unwrap();
        let layer = |l: gptq_models::PackedScheme| (l.name, l.bits, l.group_size);
        found.layers.into_iter().map(layer).collect()
    };
    let there = to(&source, Format::CompressedTensors);
    assert_eq!(bits(&there.dir), bits(&source));
    let back = to(&there.dir, Format::Gptq);
    assert_eq!(bits(&back.dir), bits(&source));
    // A linear that was left alone is left out by name.
    let packed: Vec<String> = bits(&source).into_iter().map(|(name, ..)| name).collect();
    let config = read_json(&there.dir.join("config.json"));
    let ignore = config["quantization_config"]["ignore"].as_array().unwrap();
    let skipped = ignore.iter().filter_map(Value::as_str).filter(|name| *name != "lm_head");
    let skipped: Vec<&str> = skipped.collect();
    assert_eq!(skipped.len(), 14 - packed.len());
    assert!(skipped.iter().all(|name| !packed.contains(&(*name).to_owned())));
}

#[test]
fn shards_and_threads_change_nothing_but_the_files() {
    let source = open(&fixture("checkpoints/b4_g32_asym"));
    let run = |threads: usize, max_shard_bytes: u64| {
        let out = crate::Folder::new();
        let options = ConvertOptions { max_shard_bytes, ..ConvertOptions::default() };
        let target = Target::Packed(Format::CompressedTensors);
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            convert(&source, target, &options, &out.dir, &mut ()).unwrap();
        });
        out
    };
    let (one, four) = (run(1, 1 << 40), run(4, 1 << 40));
    let bytes = |folder: &crate::Folder| fs::read(folder.dir.join("model.safetensors")).unwrap();
    assert!(bytes(&one) == bytes(&four));
    let sharded = run(4, 40_000);
    assert!(file_names(&sharded.dir).iter().filter(|n| n.ends_with(".safetensors")).count() > 2);
    assert_eq!(crate::logits(&sharded.dir), crate::logits(&one.dir));
}

#[test]
fn settings_stored_as_tensors_are_read_and_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = gptq_tests::ModelFiles::of("checkpoints/b4_g32_sym");
    for (name, value) in [("gptq_bits", 4i32), ("gptq_groupsize", 32)] {
        let bytes = value.to_le_bytes().to_vec();
        let stored = gptq_tests::Stored { dtype: safetensors::Dtype::I32, shape: vec![1], bytes };
        files.tensors.insert(name.to_owned(), stored);
    }
    // The tensors are believed before the config.
    files.config["quantization_config"]["bits"] = json!(8);
    files.write(dir.path());
    let out = to(dir.path(), Format::Awq);
    let result = read_tensors(&out.dir.join("model.safetensors"));
    assert!(result.keys().all(|name| !name.starts_with("gptq_")));
    assert_eq!(crate::logits(&out.dir), crate::logits(&fixture("checkpoints/b4_g32_sym")));
}
