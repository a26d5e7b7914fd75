//! What happens to linears that cannot be solved, and the policies about it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{Ran, args, gptq, mini, read_tensors, short_run, write_tensors};

fn quantize(out: &Path, options: &[&str]) -> Ran {
    short_run(&mini(), out, options)
}

const TOO_FEW: [&str; 2] = ["--fallback-threshold", "257"];

#[test]
fn more_fallbacks_than_allowed_is_done_with_exit_code_three() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let ran = quantize(&out, &[&TOO_FEW[..], &["--json"]].concat());
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    let said: Value = serde_json::from_str(&ran.stdout).unwrap();
    let fallbacks = said["fallback"].as_array().unwrap();
    assert_eq!(fallbacks.len(), 28);
    assert_eq!(fallbacks[0]["name"], "model.layers.0.self_attn.q_proj");
    assert_eq!(fallbacks[0]["strategy"], "rtn");
    assert!(said["loss"].is_null());
    for word in [
        "error: 28 linears",
        "--max-fallback",
        "--nsamples",
        "model.layers.0.mlp.down_proj: saw 256 of 256 tokens, fewer than 257",
        "and 18 more, all in gptq_report.json",
        &out.display().to_string(),
    ] {
        assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
    }
    // The result is whole all the same.
    let prompt = args!["generate", out, "--prompt", "The sea", "--max-new-tokens", "2", "--json"];
    gptq(prompt).json();
}

#[test]
fn as_many_fallbacks_as_allowed_are_a_success_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let options = ["--max-fallback", "28", "--fallback", "stdclip"];
    let ran = quantize(&out, &[&TOO_FEW[..], &options].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("28 fell back: model.layers.0"), "{}", ran.stdout);
    assert!(ran.stderr.contains("by stdclip: saw 256"), "{}", ran.stderr);
    let report = fs::read(out.join("gptq_report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["layers"][3]["fallback"]["strategy"], "stdclip");
    assert!(report["layers"][3]["fallback"]["mean_abs_error"].as_f64().unwrap() > 0.0);
}

/// The demo's model with a norm of zeros, so that the linears behind it never see an input.
fn blind(dir: &Path) -> PathBuf {
    let model = dir.join("blind");
    fs::create_dir(&model).unwrap();
    for name in ["config.json", "tokenizer.json"] {
        fs::copy(mini().join(name), model.join(name)).unwrap();
    }
    let mut tensors = read_tensors(&mini().join("model.safetensors"));
    let norm = tensors.get_mut("model.layers.1.post_attention_layernorm.weight").unwrap();
    norm.bytes.fill(0);
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    write_tensors(&model.join("model.safetensors"), &tensors);
    model
}

#[test]
fn linears_without_inputs_fall_back_or_without_a_fallback_fail_the_run_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (blind(dir.path()), dir.path().join("out"));
    let ran = short_run(&model, &out, &["--fallback", "none"]);
    let kept = "1 of 4 blocks are finished and kept in";
    ran.fails(1, &["model.layers.1.mlp.gate_proj", "no input", "calibration", kept]);
    assert!(!out.exists());

    // What was finished belongs to a run with other settings.
    let ran = short_run(&model, &out, &["--restart"]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    for word in ["3 linears", "model.layers.1.mlp.down_proj: its inputs were always zero"] {
        assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
    }
    assert!(out.join("model.safetensors").is_file());
}

#[test]
fn a_share_of_the_tokens_is_a_threshold_too() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let ran = quantize(&out, &["--fallback-threshold", "100%", "--json"]);
    assert_eq!(ran.json()["fallback"], serde_json::json!([]));
    let config = fs::read(out.join("quantize_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["meta"]["fallback"]["threshold"], "100%");
}
