//! Things in the world that are wrong: exit code 1, a message, nothing left behind.

use std::{fs, path::Path};

use crate::{Ran, args, fixture, gptq, mini, text};

/// Calibrates the demo's model on a text, which fails; nothing may be written.
fn calibrate(contents: &[u8], options: &[&str]) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    let calib = dir.path().join("calib.txt");
    fs::write(&calib, contents).unwrap();
    let fixed = args!["quantize", mini(), "--out", dir.path().join("out"), "--calib", calib];
    let ran = gptq(fixed.into_iter().chain(options.iter().map(Into::into)));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "only the text is there");
    ran
}

#[test]
fn a_missing_model_is_named_by_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("nowhere");
    let ids = fixture("arch/llama/expected.safetensors");
    let out = dir.path().join("out");
    let calib = text("calibration.txt");
    for ran in [
        gptq(args!["inspect", model]).code_and_message(),
        gptq(args!["eval", model, "--text", calib]).code_and_message(),
        gptq(args!["generate", model, "--prompt", "x"]).code_and_message(),
        gptq(args!["logits", model, "--ids", ids, "--out", out]).code_and_message(),
        gptq(args!["quantize", model, "--out", out, "--calib", calib]).code_and_message(),
        gptq(args!["quantize", model, "--out", out, "--method", "rtn"]).code_and_message(),
    ] {
        assert_eq!(ran.0, 1, "{}", ran.1);
        assert!(ran.1.contains("error: ") && ran.1.contains("nowhere"), "{}", ran.1);
    }
    assert!(!out.exists());
}

impl Ran {
    fn code_and_message(self) -> (i32, String) {
        (self.code, self.stderr)
    }
}

#[test]
fn text_that_is_too_short_is_refused_with_the_numbers() {
    let ran = calibrate(b"The tide was out. The boats lay on their sides.", &["--seqlen", "64"]);
    ran.fails(1, &["tokens", "windows of 64", "--seqlen"]);
    // Without --seqlen the model's whole context is asked for.
    calibrate(b"The tide was out.", &[]).fails(1, &["windows of 1024"]);
}

#[test]
fn text_without_characters_is_refused() {
    for empty in [&b""[..], b"  \n\n\t"] {
        calibrate(empty, &[]).fails(1, &["calib.txt", "holds no text"]);
    }
}

#[test]
fn text_that_is_not_utf8_is_refused_with_the_place() {
    calibrate(b"caf\xe9 at noon", &[]).fails(1, &["calib.txt", "not UTF-8 at byte 3"]);
}

#[test]
fn text_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (out, calib) = (dir.path().join("out"), dir.path().join("nowhere.txt"));
    let ran = gptq(args!["quantize", mini(), "--out", out, "--calib", calib]);
    ran.fails(1, &["cannot read", "nowhere.txt"]);
    gptq(args!["eval", mini(), "--text", calib]).fails(1, &["cannot read", "nowhere.txt"]);
}

#[test]
fn a_broken_line_of_json_lines_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (out, calib) = (dir.path().join("out"), dir.path().join("calib.jsonl"));
    fs::write(&calib, "{\"text\": \"one\"}\n{\"txt\": \"two\"}\n").unwrap();
    let ran = gptq(args!["quantize", mini(), "--out", out, "--calib", calib]);
    ran.fails(1, &["calib.jsonl line 2", "txt", "input_ids"]);
}

#[test]
fn an_output_that_exists_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
    let ran = gptq(args!["quantize", mini(), "--out", dir.path(), "--method", "rtn"]);
    ran.fails(1, &["already exists"]);
    let ran = gptq(args!["demo", "--keep", dir.path()]);
    ran.fails(1, &["already exists"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_model_without_a_tokenizer_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (out, llama) = (dir.path().join("out"), fixture("arch/llama"));
    let calib = text("calibration.txt");
    let ran = gptq(args!["quantize", llama, "--out", out, "--calib", calib]);
    ran.fails(1, &["tokenizer.json"]);
    gptq(args!["eval", llama, "--text", calib]).fails(1, &["tokenizer.json"]);
    gptq(args!["generate", llama, "--prompt", "x"]).fails(1, &["tokenizer.json"]);
}

#[test]
fn rules_that_cannot_be_understood_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let with = |rules: &str| {
        gptq(args!["quantize", mini(), "--out", out, "--method", "rtn", "--dynamic", rules])
    };
    with("{\"(\": {}}").fails(1, &["--dynamic", "regular expression"]);
    with("{nonsense}").fails(1, &["--dynamic", "is not JSON"]);
    with("nowhere.json").fails(1, &["cannot read nowhere.json"]);
    with("{\".*\": {\"bits\": 5}}").fails(1, &["bits is 5"]);
    assert!(!out.exists());
}

#[test]
fn evaluation_refuses_what_it_cannot_score() {
    let dir = tempfile::tempdir().unwrap();
    let short = dir.path().join("short.txt");
    fs::write(&short, "A short walk.").unwrap();
    let ran = gptq(args!["eval", mini(), "--text", short]);
    ran.fails(1, &["tokens", "windows of 1024"]);
    let evaluation = text("evaluation.txt");
    let ran = gptq(args!["eval", mini(), "--text", evaluation, "--seqlen", "1"]);
    ran.fails(2, &["--seqlen"]);
    let stride = args!["eval", mini(), "--text", evaluation, "--seqlen", "64", "--stride", "65"];
    gptq(stride).fails(1, &["stride is 65", "64"]);
    let other = fixture("arch/llama");
    let ran = gptq(args![
        "eval",
        mini(),
        "--text",
        evaluation,
        "--seqlen",
        "64",
        "--max-windows",
        "1",
        "--reference",
        other,
    ]);
    ran.fails(1, &["vocabulary is 4096", "320"]);
}

#[test]
fn chat_without_a_template_says_so() {
    let ran = gptq(args!["generate", mini(), "--prompt", "Hello", "--chat"]);
    ran.fails(1, &["no chat template", &mini().display().to_string()]);
}

#[test]
fn results_that_cannot_be_written_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("notes.txt");
    fs::write(&file, "x").unwrap();
    let below: &Path = &file.join("out");
    let ran = gptq(args!["quantize", mini(), "--out", below, "--method", "rtn"]);
    ran.fails(1, &["notes.txt"]);
    let ids = fixture("arch/llama/expected.safetensors");
    let ran = gptq(args!["logits", fixture("arch/llama"), "--ids", ids, "--out", below]);
    ran.fails(1, &["cannot write", "notes.txt"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_head_that_is_the_embedding_cannot_be_quantized() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let ran = gptq(args!["quantize", mini(), "--out", out, "--method", "rtn", "--lm-head"]);
    ran.fails(1, &["lm_head", "ties it to the embedding", "config.json"]);
    assert!(!out.exists());
}

#[test]
fn names_are_no_commands_to_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("\u{1b}[2Jmodel");
    let ran = gptq(args!["inspect", model]);
    ran.fails(1, &["\\u{1b}[2Jmodel"]);
    assert!(!ran.stderr.contains('\u{1b}'), "{:?}", ran.stderr);
}

#[cfg(unix)]
#[test]
fn tensors_are_not_written_through_links() {
    let dir = tempfile::tempdir().unwrap();
    let (out, other) = (dir.path().join("logits.safetensors"), dir.path().join("thesis.tex"));
    fs::write(&other, "years of work").unwrap();
    std::os::unix::fs::symlink(&other, dir.path().join("logits.safetensors.partial")).unwrap();
    let ids = fixture("arch/llama/expected.safetensors");
    let ran = gptq(args!["logits", fixture("arch/llama"), "--ids", ids, "--out", out]);
    ran.fails(1, &["logits.safetensors.partial is in the way"]);
    assert_eq!(fs::read_to_string(&other).unwrap(), "years of work");
}
