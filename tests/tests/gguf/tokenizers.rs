//! Tokenizers: what is in `tokenizer.json` is in the file.

use std::fs;

use gptq_models::GgufOptions;
use gptq_tests::read_json;
use serde_json::{Value as Json, json};

use crate::{
    byte_level, folder,
    reader::{Gguf, Value},
    write, written,
};

fn with(tokenizer: &Json) -> (Gguf, Vec<String>) {
    let dir = folder("arch/llama", tokenizer, |_| {});
    let (file, report) = written(dir.path(), &GgufOptions::default());
    (file, report.notices)
}

fn refused(tokenizer: &Json) -> String {
    let dir = folder("arch/llama", tokenizer, |_| {});
    write(dir.path(), &dir.path().join("x.gguf"), &GgufOptions::default()).unwrap_err()
}

fn ggml(file: &Gguf, key: &str) -> Value {
    file.value(&format!("tokenizer.ggml.{key}")).clone()
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

#[test]
fn a_byte_level_tokenizer() {
    let (file, notices) = with(&byte_level());
    assert_eq!(notices, [""; 0]);
    assert_eq!(ggml(&file, "model"), text("gpt2"));
    assert_eq!(ggml(&file, "pre"), text("gpt-2"));
    assert_eq!(ggml(&file, "merges").list(), [text("a b"), text("Ġ ab")]);
    let (tokens, kinds) = (ggml(&file, "tokens"), ggml(&file, "token_type"));
    assert_eq!(tokens.list().len(), 320);
    // Control, normal, user-defined, and rows of the embedding that no token has.
    for (id, token, kind) in [
        (0, "<pad>", 3),
        (2, "</s>", 3),
        (8, "Ġab", 1),
        (299, "t299", 1),
        (300, "<tool>", 4),
        (301, "[PAD301]", 5),
        (319, "[PAD319]", 5),
    ] {
        assert_eq!(tokens.list()[id].text(), token);
        assert_eq!(kinds.list()[id], Value::U32(kind), "{token}");
    }
    for (key, id) in [("bos_token_id", 1), ("eos_token_id", 2), ("padding_token_id", 0)] {
        assert_eq!(ggml(&file, key), Value::U32(id), "{key}");
    }
    // Nothing puts a token in front, whatever the config calls its first token.
    assert_eq!(ggml(&file, "add_bos_token"), Value::Bool(false));
    assert_eq!(ggml(&file, "add_eos_token"), Value::Bool(false));
}

#[test]
fn the_tokenizer_of_the_demo() {
    let assets = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../gptq-cli/assets");
    let (file, report) = written(&assets.join("mini-llama"), &GgufOptions::default());
    let source = read_json(&assets.join("mini-llama/tokenizer.json"));
    let vocab = source["model"]["vocab"].as_object().unwrap();
    let tokens = ggml(&file, "tokens");
    assert_eq!(tokens.list().len(), 4096);
    for (token, id) in vocab {
        assert_eq!(tokens.list()[id.as_u64().unwrap() as usize].text(), token);
    }
    let merges = source["model"]["merges"].as_array().unwrap();
    for (found, want) in ggml(&file, "merges").list().iter().zip(merges) {
        let want: Vec<&str> = want.as_array().unwrap().iter().flat_map(Json::as_str).collect();
        assert_eq!(found.text(), want.join(" "));
    }
    assert_eq!(ggml(&file, "merges").list().len(), merges.len());
    assert_eq!(report.notices, [""; 0]);
    assert_eq!(file.value("general.name").text(), "mini-llama");
}

fn template(first: &str, id: u32) -> Json {
    let piece = json!({"SpecialToken": {"id": first, "type_id": 0}});
    json!({"type": "Sequence", "processors": [
        {"type": "ByteLevel", "trim_offsets": false},
        {"type": "TemplateProcessing", "single": [piece, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {first: {"id": first, "ids": [id], "tokens": [first]}}},
    ]})
}

#[test]
fn what_is_put_in_front_of_a_text() {
    let mut tokenizer = byte_level();
    tokenizer["post_processor"] = template("<tool>", 300);
    let (file, _) = with(&tokenizer);
    assert_eq!(ggml(&file, "add_bos_token"), Value::Bool(true));
    assert_eq!(ggml(&file, "bos_token_id"), Value::U32(300));
}

#[test]
fn roles_of_the_side_files() {
    let dir = folder("arch/llama", &byte_level(), |files| {
        files.config["eos_token_id"] = json!([2, 5]);
    });
    let side = json!({"eos_token": {"content": "c"}, "bos_token": "a",
        "chat_template": [{"name": "tool", "template": "T"}, {"name": "default", "template": "D"}]});
    fs::write(dir.path().join("tokenizer_config.json"), side.to_string()).unwrap();
    let (file, report) = written(dir.path(), &GgufOptions::default());
    let ids = [("eos_token_id", 5), ("eot_token_id", 2), ("bos_token_id", 3)];
    for (key, id) in ids {
        assert_eq!(ggml(&file, key), Value::U32(id), "{key}");
    }
    assert_eq!(file.value("tokenizer.chat_template"), &text("D"));
    assert_eq!(report.notices, [""; 0]);

    fs::write(dir.path().join("chat_template.jinja"), "J").unwrap();
    let (file, _) = written(dir.path(), &GgufOptions::default());
    assert_eq!(file.value("tokenizer.chat_template"), &text("J"));
}

/// As `tokenizer.json` describes SentencePiece models.
fn characters() -> Json {
    let mut tokenizer = byte_level();
    tokenizer["pre_tokenizer"] = Json::Null;
    tokenizer["normalizer"] = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]});
    let tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "ab", "▁ab", "▁a"];
    tokenizer["model"] = json!({
        "type": "BPE", "unk_token": "<unk>", "byte_fallback": true,
        "vocab": tokens.iter().enumerate().map(|(id, t)| (*t, id)).collect::<std::collections::BTreeMap<_, _>>(),
        "merges": ["a b", "▁ ab", "▁ a", "▁a b"],
    });
    tokenizer["added_tokens"] = json!([
        {"id": 0, "content": "<unk>", "special": true},
        {"id": 1, "content": "<s>", "special": true},
        {"id": 2, "content": "</s>", "special": true},
    ]);
    tokenizer
}

#[test]
fn a_tokenizer_of_characters() {
    let (file, notices) = with(&characters());
    assert_eq!(notices, [""; 0]);
    assert_eq!(ggml(&file, "model"), text("llama"));
    assert_eq!(ggml(&file, "add_space_prefix"), Value::Bool(true));
    assert_eq!(ggml(&file, "unknown_token_id"), Value::U32(0));
    let kinds = ggml(&file, "token_type");
    let kinds: Vec<_> = kinds.list().iter().take(6).cloned().collect();
    assert_eq!(kinds, [2, 3, 3, 6, 1, 1].map(Value::U32));
    // The earlier a merge, the higher the score; a token made by two merges counts by the first.
    let scores = ggml(&file, "scores");
    let made = [7, 8, 9].map(|id: usize| scores.list()[id].clone());
    assert_eq!(made, [0.0, -1.0, -2.0].map(Value::F32));
    assert_eq!(scores.list()[5], Value::F32(-4.0));
    assert!(!file.pairs.contains_key("tokenizer.ggml.merges"));

    let mut metaspace = characters();
    metaspace["normalizer"] = Json::Null;
    metaspace["pre_tokenizer"] =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"});
    assert_eq!(ggml(&with(&metaspace).0, "add_space_prefix"), Value::Bool(false));
    metaspace["pre_tokenizer"]["prepend_scheme"] = json!("first");
    assert_eq!(ggml(&with(&metaspace).0, "add_space_prefix"), Value::Bool(true));
}

#[test]
fn what_a_reader_will_do_otherwise_is_said() {
    let mut tokenizer = byte_level();
    tokenizer["normalizer"] = json!({"type": "NFC"});
    tokenizer["added_tokens"][3]["id"] = json!(400);
    let dir = folder("arch/llama", &tokenizer, |files| {
        files.config["eos_token_id"] = Json::Null;
    });
    let (_, report) = written(dir.path(), &GgufOptions::default());
    let all = report.notices.join("\n");
    gptq_tests::assert_says(&all, &["NFC", "1 tokens", "320 rows", "no token ends"]);
}

#[test]
fn unknown_cuts_want_a_name() {
    let mut tokenizer = byte_level();
    tokenizer["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "[a-z]+"}, "behavior": "Isolated"},
        {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
    ]});
    let dir = folder("arch/llama", &tokenizer, |_| {});
    let out = dir.path().join("x.gguf");
    let error = write(dir.path(), &out, &GgufOptions::default()).unwrap_err();
    gptq_tests::assert_says(&error, &["tokenizer.json", "[a-z]+", "tokenizer.ggml.pre"]);
    assert!(!out.exists());
    let options = GgufOptions { pre: Some("deepseek-llm".into()), ..GgufOptions::default() };
    write(dir.path(), &out, &options).unwrap();
    assert_eq!(ggml(&Gguf::read(&out), "pre"), text("deepseek-llm"));
}

#[test]
fn tokenizers_without_a_model_in_gguf_are_refused() {
    let mut unigram = byte_level();
    unigram["model"]["type"] = json!("Unigram");
    gptq_tests::assert_says(&refused(&unigram), &["tokenizer.json", "Unigram", "BPE"]);
    let mut neither = byte_level();
    neither["pre_tokenizer"] = json!({"type": "Whitespace"});
    gptq_tests::assert_says(&refused(&neither), &["byte_fallback"]);
    let mut twice = byte_level();
    twice["model"]["vocab"]["t299"] = json!(298);
    gptq_tests::assert_says(&refused(&twice), &["t299", "t298", "298"]);
    let mut merges = byte_level();
    merges["model"]["merges"][0] = json!(["a"]);
    gptq_tests::assert_says(&refused(&merges), &["merges"]);
}
