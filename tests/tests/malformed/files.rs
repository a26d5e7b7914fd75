//! Every file of `fixtures/malformed`, in the place of its sound twin, and the error it must give.
//!
//! `errors.json` holds the whole messages, `{here}` for the folder they are about. A file without a
//! message and a message without a file are mistakes too.

use std::{collections::BTreeMap, fmt::Display, fs, path::Path};

use gptq_calib::{ChatTemplate, Corpus, Message, Tokenizer};
use gptq_models::{Adapter, Method, verify};
use gptq_tests::{INDEX, copy_folder, file_names, fixture, read_json};
use tempfile::TempDir;

use crate::{load, open, run};

/// A tokenizer of sixteen ids.
const TOKENIZER: &str = r#"{"version": "1.0", "added_tokens": [],
    "pre_tokenizer": {"type": "Whitespace"}, "model": {"type": "WordLevel", "unk_token": "?",
    "vocab": {"?": 0, "to": 1, "be": 2, "is": 15}}}"#;

#[test]
fn every_malformed_file_gives_its_error() {
    let root = fixture("malformed");
    let expected: BTreeMap<String, String> =
        serde_json::from_value(read_json(&root.join("errors.json"))).unwrap();
    let mut found = BTreeMap::new();
    for kind in file_names(&root).into_iter().filter(|name| root.join(name).is_dir()) {
        for name in file_names(&root.join(&kind)) {
            let dir = tempfile::tempdir().unwrap();
            let message = message(&kind, &root.join(&kind).join(&name), &dir);
            let message = message.replace(&dir.path().display().to_string(), "{here}");
            found.insert(format!("{kind}/{name}"), message);
        }
    }
    let wrong: Vec<_> = found.iter().filter(|(file, m)| expected.get(*file) != Some(m)).collect();
    let gone: Vec<_> = expected.keys().filter(|file| !found.contains_key(*file)).collect();
    let text =
        serde_json::to_string_pretty(&wrong.into_iter().collect::<BTreeMap<_, _>>()).unwrap();
    assert!(text == "{}" && gone.is_empty(), "other messages: {text}\nno such files: {gone:?}");
}

/// The message of an error; what is accepted stands out in the table.
fn said<T>(result: Result<T, impl Display>) -> String {
    result.map_or_else(|error| error.to_string(), |_| "accepted".to_owned())
}

/// What a folder is refused with by rounding, and may not be run either.
fn neither_quantized_nor_loaded(model: &Path) -> String {
    let out = tempfile::tempdir().unwrap();
    let rounded = run(model, &out.path().join("out"), Method::Rtn);
    assert_eq!(file_names(out.path()).is_empty(), rounded.is_err(), "half of a result is left");
    match (rounded, load(model)) {
        (Err(error), Err(_)) => error,
        _ => "accepted".to_owned(),
    }
}

/// What is said of a file in a place that its kind names; `dir` is empty.
fn message(kind: &str, file: &Path, dir: &TempDir) -> String {
    let here = dir.path();
    let put = |name: &str| fs::copy(file, here.join(name)).unwrap();
    let model = |name: &str| {
        copy_folder(&fixture("arch/llama"), here);
        put(name);
    };
    match kind {
        "config" => {
            model("config.json");
            neither_quantized_nor_loaded(here)
        }
        "weights" => {
            model("model.safetensors");
            neither_quantized_nor_loaded(here)
        }
        "index" => {
            model(INDEX);
            said(open(here))
        }
        "quantization" => {
            copy_folder(&fixture("checkpoints/b4_g32_sym"), here);
            let mut config = read_json(&here.join("config.json"));
            config.as_object_mut().unwrap().remove("quantization_config");
            fs::write(here.join("config.json"), config.to_string()).unwrap();
            put("quantize_config.json");
            said(load(here))
        }
        "adapter" if file.extension().is_some_and(|end| end == "json") => {
            put("adapter_config.json");
            said(Adapter::open(here))
        }
        "adapter" => {
            let config = r#"{"peft_type": "LORA", "lora_alpha": 16}"#;
            fs::write(here.join("adapter_config.json"), config).unwrap();
            put("adapter_model.safetensors");
            said(Adapter::open(here))
        }
        "report" => {
            model("gptq_report.json");
            match verify(here, None) {
                Err(error) => error.to_string(),
                Ok(found) => {
                    let first = found.findings.into_iter().find(|f| f.file == "gptq_report.json");
                    format!("finding: {}", first.unwrap().problem)
                }
            }
        }
        "tokenizer" => {
            put("tokenizer.json");
            said(Tokenizer::from_file(&here.join("tokenizer.json")))
        }
        "calibration" => {
            let tokenizer = Tokenizer::from_bytes(TOKENIZER.as_bytes()).unwrap();
            let name = file.file_name().unwrap();
            fs::copy(file, here.join(name)).unwrap();
            said(Corpus::from_files(&[&here.join(name)], &tokenizer, None))
        }
        "template" => {
            put("chat_template.jinja");
            let message = Message { role: "user".to_owned(), content: "to be".to_owned() };
            let template = ChatTemplate::from_model_dir(here);
            said(template.and_then(|t| t.render(&[message], true)))
        }
        other => panic!("no such kind of file: {other}"),
    }
}
