//! Things that are not the files they should be: links, pipes, devices, folders, names nobody
//! expects.
//!
//! Links are followed for reading, because the folders of download caches consist of them. Nothing is
//! ever written through one.
#![cfg(unix)]

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt, fs::symlink},
    path::Path,
    process::Command,
};

use gptq_calib::{ChatTemplate, Corpus, Tokenizer};
use gptq_models::{Adapter, Fate, Method, verify};
use gptq_tests::{INDEX, assert_says, copy_folder, file_names, fixture};
use tempfile::TempDir;

use crate::{llama, open, refused_by, run};

/// A pipe nobody writes into: opening it would wait for ever.
fn pipe(path: &Path) {
    let _ = fs::remove_file(path);
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// A device that never ends.
fn endless(path: &Path) {
    let _ = fs::remove_file(path);
    symlink("/dev/zero", path).unwrap();
}

fn folder(path: &Path) {
    let _ = fs::remove_file(path);
    fs::create_dir(path).unwrap();
}

const KINDS: [fn(&Path); 3] = [pipe, endless, folder];

/// An empty place for a result.
fn place() -> (TempDir, std::path::PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("out");
    (parent, out)
}

#[test]
fn what_is_no_file_is_not_opened() {
    for file in ["config.json", "model.safetensors"] {
        for make in KINDS {
            let dir = llama(|_| {});
            make(&dir.path().join(file));
            let words = [file, "is no file but a folder, a pipe or a device"];
            assert_says(&refused_by(dir.path(), Method::Rtn), &words);
        }
    }
}

#[test]
fn a_shard_that_is_no_file_is_not_opened() {
    for make in KINDS {
        let dir = llama(|_| {});
        make(&dir.path().join("a.safetensors"));
        let index = r#"{"weight_map": {"lm_head.weight": "a.safetensors"}}"#;
        fs::write(dir.path().join(INDEX), index).unwrap();
        assert_says(&refused_by(dir.path(), Method::Rtn), &["a.safetensors", "is no file"]);
    }
}

#[test]
fn calibration_tokenizers_and_templates_are_files() {
    let sound = fixture("../../gptq-cli/assets/mini-llama/tokenizer.json");
    let tokenizer = Tokenizer::from_file(&sound).unwrap();
    for make in KINDS {
        let dir = tempfile::tempdir().unwrap();
        for name in ["calib.txt", "calib.jsonl", "tokenizer.json", "chat_template.jinja"] {
            make(&dir.path().join(name));
        }
        let say = |message: String, name: &str| assert_says(&message, &[name, "is no file"]);
        for name in ["calib.txt", "calib.jsonl"] {
            let path = dir.path().join(name);
            say(Corpus::from_files(&[&path], &tokenizer, None).unwrap_err().to_string(), name);
        }
        let path = dir.path().join("tokenizer.json");
        say(Tokenizer::from_file(&path).unwrap_err().to_string(), "tokenizer.json");
        say(ChatTemplate::from_model_dir(dir.path()).unwrap_err().to_string(), "chat_template");
    }
}

#[test]
fn adapters_and_reports_are_files() {
    for make in KINDS {
        let dir = tempfile::tempdir().unwrap();
        make(&dir.path().join("adapter_config.json"));
        make(&dir.path().join("gptq_report.json"));
        assert_says(&Adapter::open(dir.path()).unwrap_err().to_string(), &["is no file"]);
        assert_says(&verify(dir.path(), None).unwrap_err().to_string(), &["is no file"]);
        fs::remove_dir_all(dir.path().join("adapter_config.json")).ok();
        fs::remove_file(dir.path().join("adapter_config.json")).ok();
        let config = r#"{"peft_type": "LORA", "lora_alpha": 16}"#;
        fs::write(dir.path().join("adapter_config.json"), config).unwrap();
        make(&dir.path().join("adapter_model.safetensors"));
        assert_says(&Adapter::open(dir.path()).unwrap_err().to_string(), &["is no file"]);
    }
}

#[test]
fn what_lies_beside_the_model_and_is_no_file_is_left_there() {
    let dir = llama(|_| {});
    for (name, make) in ["a_pipe", "a_device", "a_folder"].iter().zip(KINDS) {
        make(&dir.path().join(name));
    }
    let (_parent, out) = place();
    let report = run(dir.path(), &out, Method::Rtn).unwrap();
    for name in ["a_pipe", "a_device", "a_folder"] {
        let entry = report.ledger.files.iter().find(|entry| entry.name == name).unwrap();
        assert_eq!(entry.fate, Fate::Dropped);
        assert!(!out.join(name).exists());
    }
}

#[test]
fn files_larger_than_any_text_are_not_read() {
    let sparse = |path: &Path, bytes: u64| File::create(path).unwrap().set_len(bytes).unwrap();
    let dir = llama(|_| {});
    sparse(&dir.path().join("config.json"), 1 << 40);
    assert_says(&refused_by(dir.path(), Method::Rtn), &["config.json", "1099511627776 bytes"]);
    let tokenizer = dir.path().join("tokenizer.json");
    sparse(&tokenizer, 1 << 40);
    let error = Tokenizer::from_file(&tokenizer).unwrap_err().to_string();
    assert_says(&error, &["tokenizer.json", "1099511627776 bytes", "at most 268435456"]);
    let sound = fixture("../../gptq-cli/assets/mini-llama/tokenizer.json");
    let calib = dir.path().join("calib.jsonl");
    sparse(&calib, 1 << 40);
    let corpus = Corpus::from_files(&[&calib], &Tokenizer::from_file(&sound).unwrap(), None);
    let error = corpus.unwrap_err().to_string();
    assert_says(&error, &["calib.jsonl", "1099511627776 bytes", "take a part of it"]);
}

#[test]
fn a_line_of_megabytes_is_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("calib.jsonl");
    let sound = fixture("../../gptq-cli/assets/mini-llama/tokenizer.json");
    let tokenizer = Tokenizer::from_file(&sound).unwrap();
    let ids = "1,".repeat(1 << 20);
    fs::write(&path, format!("{{\"input_ids\": [{ids}1]}}\n")).unwrap();
    let corpus = Corpus::from_files(&[&path], &tokenizer, None).unwrap();
    assert_eq!(corpus.ids.len(), (1 << 20) + 1);
    fs::write(&path, format!("{{\"input_ids\": [{ids}-1]}}\n")).unwrap();
    let error = Corpus::from_files(&[&path], &tokenizer, None).unwrap_err().to_string();
    assert_says(&error, &["calib.jsonl line 1", "input_ids[1048576]", "a negative number"]);
}

#[test]
fn a_cache_of_links_is_read_and_its_result_has_none() {
    let cache = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshots/main"));
    copy_folder(&fixture("arch/llama"), &blobs);
    fs::create_dir_all(&snapshot).unwrap();
    for name in file_names(&blobs) {
        symlink(Path::new("../../blobs").join(&name), snapshot.join(&name)).unwrap();
    }
    let (_parent, out) = place();
    run(&snapshot, &out, Method::Rtn).unwrap();
    assert!(out.join("generation_config.json").exists());
    for name in file_names(&out) {
        assert!(fs::symlink_metadata(out.join(&name)).unwrap().is_file(), "{name}");
    }
}

#[test]
fn links_that_lead_nowhere_are_named() {
    for (target, what) in [("nowhere", "No such file"), ("model.safetensors", "symbolic links")] {
        let dir = llama(|_| {});
        fs::remove_file(dir.path().join("model.safetensors")).unwrap();
        symlink(target, dir.path().join("model.safetensors")).unwrap();
        let words = ["cannot open", "model.safetensors", what];
        assert_says(&refused_by(dir.path(), Method::Rtn), &words);
        let dir = llama(|_| {});
        symlink("nowhere", dir.path().join("tokenizer.json")).unwrap();
        let error = refused_by(dir.path(), Method::Rtn);
        assert_says(&error, &["cannot read", "tokenizer.json", "No such file"]);
    }
}

#[test]
fn nothing_is_written_through_a_link_at_the_name_of_the_result() {
    let (parent, out) = place();
    let elsewhere = parent.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &out).unwrap();
    let error = run(&fixture("arch/llama"), &out, Method::Rtn).unwrap_err();
    assert_says(&error, &["out", "already exists"]);
    assert_eq!(file_names(&elsewhere), [""; 0]);
    assert_eq!(file_names(parent.path()), ["elsewhere", "out"]);
}

#[test]
fn nothing_is_written_or_removed_through_a_link_at_the_name_of_the_unfinished() {
    for marked in [false, true] {
        let (parent, out) = place();
        let elsewhere = parent.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("thesis.tex"), "years of work").unwrap();
        if marked {
            fs::write(elsewhere.join(".gptq-partial"), "").unwrap();
        }
        symlink(&elsewhere, parent.path().join("out.partial")).unwrap();
        let before = file_names(&elsewhere);
        let result = run(&fixture("arch/llama"), &out, Method::Rtn);
        if !marked {
            assert_says(&result.unwrap_err(), &["out.partial", "is in the way"]);
        }
        assert_eq!(file_names(&elsewhere), before);
        assert_eq!(fs::read_to_string(elsewhere.join("thesis.tex")).unwrap(), "years of work");
    }
}

#[test]
fn names_that_are_no_text_are_copied_and_verified() {
    let dir = llama(|_| {});
    let names = [&b"line\nbreak"[..], b"caf\xe9.json", b"\x1b[31mred", b"-rf", b" ", b"..."];
    for name in names {
        fs::write(dir.path().join(OsStr::from_bytes(name)), name).unwrap();
    }
    let (_parent, out) = place();
    run(dir.path(), &out, Method::Rtn).unwrap();
    for name in names {
        assert_eq!(fs::read(out.join(OsStr::from_bytes(name))).unwrap(), name);
    }
    assert_eq!(verify(&out, Some(dir.path())).unwrap().findings, []);
}

#[test]
fn a_file_that_may_not_be_read_is_named() {
    let dir = llama(|_| {});
    let path = dir.path().join("config.json");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).unwrap();
    // Administrators may read everything.
    if fs::read(&path).is_err() {
        let error = open(dir.path()).unwrap_err();
        assert_says(&error, &["cannot read", "config.json", "ermission denied"]);
    }
}
