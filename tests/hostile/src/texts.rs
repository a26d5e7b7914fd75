//! Files that are read as text: configs, tokenizers, calibration data, chat templates.

use std::{fs, panic, path::Path, sync::Once};

use gptq_calib::{ChatTemplate, Corpus, Message, Tokenizer};
use gptq_models::{Architecture, Checkpoint, GgufOptions, write_gguf};
use gptq_pack::CheckpointConfig;
use serde_json::Value;

use crate::{parts, tiny};

/// `config.json` of any family.
pub fn config(bytes: &[u8]) {
    let Ok(json) = serde_json::from_slice::<Value>(bytes) else { return };
    let Ok(arch) = Architecture::from_config(&json, "config.json") else { return };
    for rope in &arch.graph.ropes {
        drop(rope.table(0, 2));
        drop(rope.table(1 << 20, 1));
    }
}

/// A quantization config in any dialect. What was read and can be written reads the same.
pub fn quantization(bytes: &[u8]) {
    let Ok(json) = serde_json::from_slice::<Value>(bytes) else { return };
    let Ok(config) = CheckpointConfig::from_json(&json) else { return };
    for module in ["model.layers.3.mlp.down_proj", "lm_head", ""] {
        drop(config.scheme(module));
    }
    if let Ok(written) = config.to_json() {
        let again = CheckpointConfig::from_json(&written).unwrap();
        assert_eq!((again.bits, again.format), (config.bits, config.format));
    }
}

/// `tokenizer.json`, `tokenizer_config.json` and a text: encoded, decoded, and written into a GGUF
/// file.
pub fn tokenizer(bytes: &[u8]) {
    let [tokenizer, side, text] = parts(bytes);
    let tokenizer = tokenizer.unwrap_or_default();
    let_tokenizers_panic();
    if let Ok(tokenizer) = Tokenizer::from_bytes(tokenizer) {
        let text = String::from_utf8_lossy(text.unwrap_or(b"to be or not"));
        let _ = tokenizer.token_id(&text);
        for special in [true, false] {
            let Ok(ids) = tokenizer.encode(&text, special) else { continue };
            drop(tokenizer.decode(&ids, special));
            let mut stream = tokenizer.decode_stream(special);
            let pushed = ids.iter().chain([&u32::MAX]).try_for_each(|&id| {
                stream.push(id)?;
                Ok::<(), gptq_calib::Error>(())
            });
            if pushed.is_ok() {
                drop(stream.finish());
            }
        }
    }
    let dir = tiny::folder();
    tiny::write(dir.path());
    fs::write(dir.path().join("tokenizer.json"), tokenizer).unwrap();
    if let Some(side) = side {
        fs::write(dir.path().join("tokenizer_config.json"), side).unwrap();
    }
    let source = Checkpoint::open(dir.path()).unwrap();
    let out = dir.path().join("model.gguf");
    let options = GgufOptions { pre: Some("gpt-2".to_owned()), ..GgufOptions::default() };
    drop(write_gguf(&source, &out, &options, &mut ()));
}

/// Panics inside the crate `tokenizers` are turned into errors by ours. A fuzzer must not see them.
fn let_tokenizers_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let file = panic.location().map_or("", |place| place.file());
            if !file.contains("tokenizers-") {
                usual(panic);
            }
        }));
    });
}

/// Calibration text, as JSON Lines and as plain text, with the chat template and the
/// `tokenizer_config.json` of its model.
pub fn calibration(bytes: &[u8]) {
    let [lines, template, side] = parts(bytes);
    let dir = tiny::folder();
    let put = |name: &str, bytes: Option<&[u8]>| {
        let path = dir.path().join(name);
        if let Some(bytes) = bytes {
            fs::write(&path, bytes).unwrap();
        }
        path
    };
    put("chat_template.jinja", template);
    put("tokenizer_config.json", side);
    let template = ChatTemplate::from_model_dir(dir.path()).ok();
    if let Some(template) = &template {
        let says = |role: &str| Message { role: role.to_owned(), content: " to be ".to_owned() };
        drop(template.render(&[says("user"), says("assistant"), says("user")], true));
    }
    let tokenizer = Tokenizer::from_bytes(tiny::TOKENIZER.as_bytes()).unwrap();
    for name in ["calib.jsonl", "calib.txt"] {
        let path = put(name, Some(lines.unwrap_or_default()));
        let paths: [&Path; 1] = [&path];
        if let Ok(corpus) = Corpus::from_files(&paths, &tokenizer, template.as_ref()) {
            assert!(corpus.ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        }
    }
}
