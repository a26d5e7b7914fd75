//! `gptq quantize`: the same bytes for any number of threads, and what it says of them.

use std::{fs, path::Path};

use crate::{Ran, args, fixture, gptq, mini, read_tensors, short_run};

/// A short run on the demo's model and text.
fn quantize(out: &Path, options: &[&str]) -> Ran {
    short_run(&mini(), out, &[&["--json"], options].concat())
}

#[test]
fn one_thread_and_two_write_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    quantize(&one, &["--threads", "1"]).json();
    quantize(&two, &["--threads", "2"]).json();
    for name in ["model.safetensors", "config.json", "quantize_config.json"] {
        let bytes = |dir: &Path| fs::read(dir.join(name)).unwrap();
        assert!(bytes(&one) == bytes(&two), "{name} differs");
    }
}

#[test]
fn the_summary_is_one_object_with_the_figures_of_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let ran = quantize(&out, &["--bits", "3", "--group-size", "64"]);
    let said = ran.json();
    let keys: Vec<&str> = said.as_object().unwrap().keys().map(String::as_str).collect();
    let all = [
        "out",
        "report",
        "layers",
        "coverage",
        "loss",
        "rtn_loss",
        "fallback",
        "experts",
        "adapter",
        "source_bytes",
        "output_bytes",
        "notices",
        "seconds",
        "computed",
        "memory",
        "interruptions",
        "quality",
    ];
    assert_eq!(keys, all);
    assert_eq!(said["layers"], 28);
    assert_eq!(said["coverage"]["quantized"], said["coverage"]["expected"]);
    assert_eq!(said["fallback"], serde_json::json!([]));
    assert!(said["adapter"].is_null());
    assert!(said["loss"].as_f64().unwrap() < said["rtn_loss"].as_f64().unwrap(), "{said}");
    assert!(said["notices"][0].as_str().unwrap().contains("3-bit"), "{said}");
    assert!(ran.stderr.contains("calibration: 4 samples of 64 tokens"), "{}", ran.stderr);
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(said["report"].as_str().unwrap()).unwrap()).unwrap();
    assert_eq!(report["calibration"]["n_samples"], 4);
    assert_eq!(report["calibration"]["seq_len"], 64);
    assert_eq!(report["calibration"]["ids_sha256"].as_str().unwrap().len(), 64);
}

#[test]
fn rounding_needs_no_text_and_no_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let llama = fixture("arch/llama");
    let ran = gptq(args!["quantize", llama, "--out", out, "--method", "rtn", "--group-size", "32"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("14 layers quantized"), "{}", ran.stdout);
    let tensors = read_tensors(&out.join("model.safetensors"));
    assert_eq!(tensors["model.layers.0.mlp.up_proj.qweight"].shape, [8, 96]);
    gptq(args!["inspect", out, "--json"]).json();
}

#[test]
fn asymmetric_grids_are_stored_in_the_second_format_unless_asked_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let format = |name: &str, options: &[&str]| {
        let out = dir.path().join(name);
        let fixed = args!["quantize", fixture("arch/llama"), "--out", out, "--method", "rtn"];
        let ran = gptq(fixed.into_iter().chain(options.iter().map(Into::into)));
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let config = fs::read(out.join("quantize_config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        config["checkpoint_format"].as_str().unwrap().to_owned()
    };
    assert_eq!(format("sym", &[]), "gptq");
    assert_eq!(format("asym", &["--asym"]), "gptq_v2");
    assert_eq!(format("v1", &["--asym", "--format", "gptq"]), "gptq");
    assert_eq!(format("last-wins", &["--asym", "--sym"]), "gptq");
}

#[test]
fn rules_may_be_given_inline_or_as_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let rules = r#"{"-:.*o_proj": {}, ".*down_proj": {"bits": 8}}"#;
    let file = dir.path().join("rules.json");
    fs::write(&file, rules).unwrap();
    for (name, given) in [("inline", rules), ("file", file.to_str().unwrap())] {
        let out = dir.path().join(name);
        let ran = gptq(args![
            "quantize",
            fixture("arch/llama"),
            "--out",
            out,
            "--method",
            "rtn",
            "--dynamic",
            given,
            "--json",
        ]);
        assert_eq!(ran.json()["layers"], 12);
        let tensors = read_tensors(&out.join("model.safetensors"));
        assert!(tensors.contains_key("model.layers.0.self_attn.o_proj.weight"));
        assert_eq!(tensors["model.layers.0.mlp.down_proj.qweight"].shape, [24, 64]);
    }
}

#[test]
fn shards_are_split_where_asked_and_load_again() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    quantize(&out, &["--max-shard-size", "0.0005"]).json();
    assert!(out.join("model.safetensors.index.json").is_file());
    let prompt = args!["generate", out, "--prompt", "The sea", "--max-new-tokens", "2", "--json"];
    gptq(prompt).json();
}
