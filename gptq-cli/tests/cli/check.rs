//! `check` and `doctor`, and what `quantize` makes of them.

use std::fs;

use serde_json::Value;

use crate::{args, gptq, mini, short_run, text};

#[test]
fn a_table_of_every_target_and_a_way_out() {
    let ran = gptq(args!["check", mini()]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for target in ["vllm", "sglang", "tgi", "transformers", "exllamav2", "mistralrs", "llama.cpp"] {
        let row = ran.stdout.lines().find(|line| line.starts_with(target)).unwrap();
        assert!(row.contains("yes"), "{row}");
    }
    // Without a target, one that loads is enough.
    let ran = gptq(args!["check", mini(), "--tp", "2"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("384 / 2 = 192 inputs"), "{}", ran.stdout);
    let ran = gptq(args!["check", mini(), "--tp", "2", "--target", "vllm"]);
    assert_eq!(ran.code, 3);
    assert!(ran.stdout.contains("nearest setting that loads: group_size 64"), "{}", ran.stdout);
    assert!(ran.stderr.contains("vllm will not load what these settings write"), "{}", ran.stderr);
    gptq(args!["check", mini(), "--target", "ollama"]).fails(2, &["ollama", "vllm", "llama.cpp"]);
    gptq(args!["check", mini(), "--tp", "0"]).fails(2, &["0"]);
    let ran = gptq(args!["quantize", mini(), "--out", "x", "--method", "rtn", "--tp", "2"]);
    ran.fails(2, &["--tp 2", "--target"]);
}

#[test]
fn check_as_json_says_where_a_rule_was_read() {
    let ran = gptq(args!["check", mini(), "--bits", "3", "--target", "vllm", "--json"]);
    assert_eq!(ran.code, 3);
    let said: Value = serde_json::from_str(&ran.stdout).unwrap();
    let target = &said["targets"][0];
    assert_eq!((&target["target"], &target["loads"]), (&"vllm".into(), &false.into()));
    let objection = &target["objections"][0];
    assert_eq!(objection["rule"], "bits");
    assert_eq!(objection["severity"], "refuses");
    assert_eq!(objection["layers"], 28);
    assert_eq!(objection["nearest"][0], "bits 4");
    assert!(objection["source"].as_str().unwrap().contains("vllm"), "{objection}");
    assert_eq!(objection["read"].as_str().unwrap().len(), 10);
}

#[test]
fn a_target_stops_a_run_before_it_starts_and_is_asked_again_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    // The text is not even looked for.
    gptq(args![
        "quantize",
        mini(),
        "--out",
        out,
        "--calib",
        "nowhere.txt",
        "--bits",
        "2",
        "--target",
        "vllm"
    ])
    .fails(1, &["nothing was read or written", "2-bit symmetric", "nearest", "bits 4"]);
    assert!(!out.exists());
    let fixed = args!["quantize", mini(), "--out", out, "--method", "rtn", "--target", "vllm"];
    let ran = gptq(fixed.into_iter().chain(args!["--target", "transformers"]));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(gptq(args!["check", out, "--target", "vllm"]).code, 0);
}

#[test]
fn doctor_shows_the_figures_of_a_set() {
    let calib = text("calibration.txt");
    let fixed = ["doctor".into(), mini().into_os_string(), "--calib".into(), calib.clone().into()];
    let small = args!["--nsamples", "8", "--seqlen", "256"];
    let ran = gptq(fixed.clone().into_iter().chain(small.clone()));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for words in ["tokens of the set", "2048", "8 of 256 tokens", "bits of entropy"] {
        assert!(ran.stdout.contains(words), "{words} is not in {}", ran.stdout);
    }
    let said = gptq(fixed.into_iter().chain(small).chain(args!["--json"])).json();
    let found = &said["diagnosis"];
    assert_eq!(found["set_tokens"], 8 * 256);
    assert_eq!(found["documents"]["count"], 1);
    assert_eq!(found["duplicate_share"], 0.0);
    assert!(found["entropy_bits"].as_f64().unwrap() > 6.0, "{found}");
    assert_eq!(said["provenance"]["n_samples"], 8);
}

#[test]
fn an_absurd_set_is_refused_unless_it_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let (calib, out) = (dir.path().join("calib.txt"), dir.path().join("out"));
    fs::write(&calib, "The tide was out. ".repeat(300)).unwrap();
    let doctor = args!["doctor", mini(), "--calib", calib, "--nsamples", "4", "--seqlen", "64"];
    let ran = gptq(doctor);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.stdout.contains("absurd: "), "{}", ran.stdout);
    let fixed = args![
        "quantize",
        mini(),
        "--out",
        out,
        "--calib",
        calib,
        "--nsamples",
        "4",
        "--seqlen",
        "64"
    ];
    gptq(fixed.clone()).fails(1, &["no calibration", "stood before", "--accept-calibration"]);
    assert!(!out.exists());
    let ran = gptq(fixed.into_iter().chain(args!["--accept-calibration", "--max-fallback", "28"]));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("note: calibration: "), "{}", ran.stderr);
}

#[test]
fn the_report_of_a_run_has_the_figures() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let ran = short_run(&mini(), &out, &[]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("note: calibration: 256 tokens for the 384 inputs"),
        "{}",
        ran.stderr
    );
    let report = fs::read(out.join("gptq_report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["calibration"]["diagnosis"]["set_tokens"], 256);
    assert_eq!(report["calibration"]["n_samples"], 4);
}
