//! What files become, and what each kind of bad file is answered with.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod common;

use std::path::{Path, PathBuf};

use gptq_calib::{CalibrationSet, ChatTemplate, Corpus, Error, LineError, SampleSpec, Tokenizer};
use tempfile::TempDir;

const TURNS: &str = "{% for m in messages %}{% if m.role == 'narrator' %}\
    {{ raise_exception('no narrator here') }}{% endif %}{{ bos_token }} {{ m.content }} {% endfor %}";

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

fn turns() -> ChatTemplate {
    ChatTemplate::from_source(TURNS, Some("<s>"), None).unwrap()
}

fn read(path: &Path) -> Result<Corpus, Error> {
    Corpus::from_files(&[path], &common::words(), Some(&turns()))
}

/// The problem found on one line put after a good one and a blank one.
fn problem(line: &str) -> LineError {
    let files = Files::new();
    let path = files.write("data.jsonl", format!("{{\"text\": \"w1\"}}\n\n{line}\n"));
    let error = read(&path).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("data.jsonl line 3: "), "{message}");
    match error {
        Error::Line { line: 3, problem, .. } => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn texts_are_joined_and_encoded_as_one() {
    let files = Files::new();
    let one = files.write("one.txt", "w1 w2");
    let two = files.write("two.jsonl", "{\"text\": \"w3\"}\n\n{\"text\": \"w4\"}\n");
    let corpus = Corpus::from_files(&[&one, &two], &common::words(), None).unwrap();
    // One BOS for the whole; neither truncated to 4 nor padded to 9.
    assert_eq!(corpus.ids, [10, 1, 2, 3, 4]);
    assert_eq!(corpus.documents, 3);
    let names: Vec<_> = corpus.sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, ["one.txt", "two.jsonl"]);
}

#[test]
fn ids_and_chats_keep_their_place() {
    let files = Files::new();
    let path = files.write(
        "mixed.jsonl",
        r#"{"text": "w1"}
{"input_ids": [7, 7]}
{"messages": [{"role": "user", "content": "w2"}, {"role": "assistant", "content": "w3"}]}
{"text": "w4"}
"#,
    );
    // The template wrote its own BOS per turn and no other was added.
    assert_eq!(read(&path).unwrap().ids, [10, 1, 7, 7, 10, 2, 10, 3, 10, 4]);
}

#[test]
fn a_set_from_files_names_them_without_folder() {
    let files = Files::new();
    let path = files.write("book.txt", common::text(300));
    let spec = SampleSpec { n_samples: 4, seq_len: 20, seed: 1 };
    let set = CalibrationSet::from_files(&[&path], &common::words(), None, &spec).unwrap();
    assert_eq!(set.samples.len(), 4);
    assert_eq!(set.provenance.sources[0].name, "book.txt");
    assert_eq!(set.provenance.text_tokens, 301);
}

#[test]
fn no_files() {
    assert!(matches!(Corpus::from_files(&[], &common::words(), None), Err(Error::NoFiles)));
}

#[test]
fn missing_file() {
    let error = read(Path::new("nowhere/x.txt")).unwrap_err();
    assert!(matches!(error, Error::Io { .. }));
    assert!(error.to_string().contains("x.txt"));
}

#[test]
fn empty_files() {
    let files = Files::new();
    for (name, content) in
        [("a.txt", ""), ("b.txt", " \n"), ("c.jsonl", "\n\n"), ("d.txt", "\u{feff}")]
    {
        let error = read(&files.write(name, content)).unwrap_err();
        assert!(matches!(error, Error::EmptyFile { .. }), "{error}");
        assert!(error.to_string().contains(name));
    }
}

#[test]
fn not_utf8() {
    let files = Files::new();
    let gzip = files.write("data.jsonl.gz", [0x1f, 0x8b, 0x08, 0x00]);
    let error = read(&gzip).unwrap_err();
    assert!(matches!(error, Error::NotUtf8 { offset: 1, .. }));
    assert!(error.to_string().contains("byte 1"));
    let latin = files.write("latin.txt", b"caf\xe9 au lait");
    assert!(matches!(read(&latin), Err(Error::NotUtf8 { offset: 3, .. })));
}

#[test]
fn not_json() {
    let found = problem("w1 w2");
    assert!(matches!(found, LineError::NotJson { .. }));
    // The first line of an indented array.
    assert!(problem("[").to_string().contains("jq -c '.[]'"));
}

#[test]
fn not_an_object() {
    assert_eq!(problem("[{\"text\": \"w1\"}]"), LineError::NotAnObject { found: "a list" });
    assert_eq!(problem("\"w1\""), LineError::NotAnObject { found: "a string" });
}

#[test]
fn unknown_keys() {
    let found = problem(r#"{"prompt": "w1", "answer": "w2", "text": null}"#);
    assert!(found.to_string().contains("[prompt, answer, text]"), "{found}");
    assert!(matches!(found, LineError::NoKnownKey { .. }));
    assert!(matches!(problem("{}"), LineError::NoKnownKey { keys } if keys.is_empty()));
}

#[test]
fn wrong_kinds() {
    for (line, message) in [
        (r#"{"text": 5}"#, "text is a number, but must be a string"),
        (r#"{"text": ["w1"]}"#, "text is a list"),
        (r#"{"messages": "w1"}"#, "messages is a string, but must be a list"),
        (r#"{"messages": [{"role": "user"}]}"#, "messages[0].content is nothing"),
        (r#"{"messages": ["w1"]}"#, "messages[0].role is nothing"),
        (r#"{"input_ids": {}}"#, "input_ids is an object, but must be a list"),
        (r#"{"input_ids": [[1]]}"#, "input_ids[0] is a list"),
        (r#"{"input_ids": [1, -1]}"#, "input_ids[1] is a negative number"),
        (r#"{"input_ids": [1.5]}"#, "input_ids[0] is a fraction"),
    ] {
        let found = problem(line);
        assert!(matches!(found, LineError::WrongKind { .. }), "{found:?}");
        assert!(found.to_string().contains(message), "{found}");
    }
}

#[test]
fn ids_of_another_model() {
    let expected = LineError::UnknownId { position: 1, id: 11, vocab_size: 11 };
    assert_eq!(problem(r#"{"input_ids": [10, 11]}"#), expected);
    let wide = problem(r#"{"input_ids": [4294967297]}"#);
    assert!(matches!(wide, LineError::UnknownId { id: 4_294_967_297, .. }));
}

#[test]
fn messages_without_a_template() {
    let files = Files::new();
    let path = files.write("chat.jsonl", r#"{"messages": [{"role": "user", "content": "w1"}]}"#);
    let error = Corpus::from_files(&[&path], &common::words(), None).unwrap_err();
    assert!(matches!(error, Error::Line { line: 1, problem: LineError::NoChatTemplate, .. }));
}

#[test]
fn messages_the_template_refuses() {
    let found = problem(r#"{"messages": [{"role": "narrator", "content": "w1"}]}"#);
    assert!(found.to_string().contains("no narrator here"), "{found}");
}

#[test]
fn bad_tokenizer_file() {
    let files = Files::new();
    let path = files.write("tokenizer.json", "{\"model\": 1}");
    let error = Tokenizer::from_file(&path).unwrap_err();
    assert!(matches!(error, Error::TokenizerFile { .. }));
    assert!(error.to_string().contains("tokenizer.json"));
    assert!(matches!(Tokenizer::from_file(Path::new("nowhere")), Err(Error::Io { .. })));
}
