//! GGUF files read by a reader that shares nothing with the writer: what was in the folder is in
//! the file, under the names and in the order of rows that llama.cpp wants.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic like tests")]

mod exact;
mod reader;
mod refused;
mod tokenizers;

use std::{
    fs,
    path::{Path, PathBuf},
};

use gptq_core::{ActOrder, GroupSize, QuantConfig};
use gptq_kernels::CpuBackend;
use gptq_models::{
    Checkpoint, GgufOptions, GgufReport, Method, QuantizeOptions, quantize, write_gguf,
};
use gptq_pack::Format;
use gptq_tests::{ModelFiles, random_tokens};
use reader::Gguf;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A byte-level tokenizer of 300 tokens, for the embedding of 320 rows that `arch/llama` has.
fn byte_level() -> Value {
    let mut vocab = serde_json::Map::new();
    for (id, token) in ["<pad>", "<s>", "</s>", "a", "b", "c", "ab", "Ġ", "Ġab"].iter().enumerate()
    {
        vocab.insert((*token).to_owned(), json!(id));
    }
    for id in vocab.len()..300 {
        vocab.insert(format!("t{id}"), json!(id));
    }
    json!({
        "added_tokens": [
            {"id": 0, "content": "<pad>", "special": true, "normalized": false},
            {"id": 1, "content": "<s>", "special": true, "normalized": false},
            {"id": 2, "content": "</s>", "special": true, "normalized": false},
            {"id": 300, "content": "<tool>", "special": false, "normalized": false},
        ],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "post_processor": null,
        "model": {"type": "BPE", "unk_token": null, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [["a", "b"], ["Ġ", "ab"]]},
    })
}

/// A folder with a fixture's files after a change, and a tokenizer.
fn folder(name: &str, tokenizer: &Value, change: impl FnOnce(&mut ModelFiles)) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut files = ModelFiles::of(name);
    change(&mut files);
    files.write(dir.path());
    fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    dir
}

/// The dense model of most tests.
fn llama() -> TempDir {
    folder("arch/llama", &byte_level(), |_| {})
}

/// The same, quantized, beside it.
fn quantized(source: &TempDir, method: Method, config: QuantConfig) -> PathBuf {
    let out = source.path().join("quantized");
    let samples = match method {
        Method::Gptq => random_tokens(1, 12, 48),
        Method::Rtn => Vec::new(),
    };
    let options =
        QuantizeOptions { method, config, format: Format::GptqV2, ..QuantizeOptions::default() };
    let checkpoint = Checkpoint::open(source.path()).unwrap();
    quantize(&checkpoint, &samples, &CpuBackend::new(), &options, &out, &mut ()).unwrap();
    out
}

fn groups_of(size: i64) -> QuantConfig {
    QuantConfig {
        group_size: GroupSize::from_file(size).unwrap(),
        act_order: ActOrder::Natural,
        ..QuantConfig::default()
    }
}

fn write(model: &Path, out: &Path, options: &GgufOptions) -> Result<GgufReport, String> {
    let checkpoint = Checkpoint::open(model).map_err(|e| e.to_string())?;
    write_gguf(&checkpoint, out, options, &mut ()).map_err(|e| e.to_string())
}

/// Writes a folder's model and reads the file.
fn written(model: &Path, options: &GgufOptions) -> (Gguf, GgufReport) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model.gguf");
    let report = write(model, &out, options).unwrap();
    assert_eq!(gptq_tests::file_names(dir.path()), ["model.gguf"]);
    assert_eq!(report.bytes, fs::metadata(&out).unwrap().len());
    (Gguf::read(&out), report)
}
