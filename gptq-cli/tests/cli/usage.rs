//! Command lines that make sense, and those that do not.

use crate::{args, gptq, mini};

const COMMANDS: [&str; 9] =
    ["demo", "quantize", "eval", "generate", "logits", "solve-layer", "inspect", "check", "doctor"];

#[test]
fn every_command_has_help() {
    let all = gptq(["--help"]);
    assert_eq!(all.code, 0);
    for command in COMMANDS {
        assert!(all.stdout.contains(command), "{command} is not in {}", all.stdout);
        let one = gptq([command, "--help"]);
        assert_eq!((one.code, one.stderr.as_str()), (0, ""), "{command}");
        assert!(one.stdout.contains("Usage: gptq"), "{}", one.stdout);
        assert!(one.stdout.contains("--json"), "{}", one.stdout);
        assert!(one.stdout.contains("--threads"), "{}", one.stdout);
    }
    assert!(all.stdout.contains("Exit codes"), "{}", all.stdout);
}

#[test]
fn help_of_quantize_shows_every_option() {
    let help = gptq(["quantize", "--help"]).stdout;
    for option in [
        "--out",
        "--method",
        "--bits",
        "--group-size",
        "--sym",
        "--asym",
        "--desc-act",
        "--static-groups",
        "--act-group-aware",
        "--no-act-group-aware",
        "--damp-percent",
        "--damp-auto-increment",
        "--mse",
        "--mse-grid",
        "--mse-maxshrink",
        "--block-size",
        "--fresh-scales",
        "--no-fresh-scales",
        "--gptaq",
        "--foem",
        "--format",
        "--dynamic",
        "--true-sequential",
        "--no-true-sequential",
        "--lm-head",
        "--fallback",
        "--fallback-threshold",
        "--max-fallback",
        "--eora-rank",
        "--eora-out",
        "--calib",
        "--nsamples",
        "--seqlen",
        "--seed",
        "--max-shard-size",
        "--device",
        "--target",
        "--tp",
        "--accept-calibration",
    ] {
        assert!(help.contains(option), "{option} is not in {help}");
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    let version = gptq(["--version"]);
    assert_eq!(version.code, 0);
    assert_eq!(version.stdout.trim(), format!("gptq {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn nothing_typed_is_wrong_usage() {
    let ran = gptq::<&str>([]);
    ran.fails(2, &["Usage: gptq"]);
}

#[test]
fn unknown_words_are_wrong_usage() {
    gptq(["frobnicate"]).fails(2, &["frobnicate"]);
    gptq(["demo", "--frobnicate"]).fails(2, &["--frobnicate"]);
    gptq(["inspect"]).fails(2, &["MODEL"]);
    gptq(["quantize", "model"]).fails(2, &["--out"]);
    gptq(["eval", "model"]).fails(2, &["--text"]);
}

/// `quantize` of a model that is not there: usage is judged first.
fn quantize(options: &[&str]) -> crate::Ran {
    let fixed = ["quantize", "no-model", "--out", "no-out", "--calib", "no-text.txt"];
    gptq(fixed.iter().chain(options))
}

#[test]
fn values_out_of_range_are_wrong_usage() {
    quantize(&["--bits", "5"]).fails(2, &["5", "2, 3, 4, 8"]);
    quantize(&["--bits", "four"]).fails(2, &["four"]);
    quantize(&["--group-size", "0"]).fails(2, &["group_size is 0"]);
    quantize(&["--group-size", "-2"]).fails(2, &["-2"]);
    quantize(&["--method", "awq"]).fails(2, &["awq", "gptq", "rtn"]);
    quantize(&["--format", "exl2"]).fails(2, &["exl2", "gptq_v2", "marlin", "compressed-tensors"]);
    quantize(&["--device", "tpu"]).fails(2, &["tpu", "cpu"]);
    quantize(&["--nsamples", "0"]).fails(2, &["0"]);
    quantize(&["--seqlen", "0"]).fails(2, &["0"]);
    quantize(&["--threads", "0"]).fails(2, &["0"]);
    quantize(&["--max-shard-size", "0"]).fails(2, &["--max-shard-size", "above 0"]);
    quantize(&["--max-shard-size", "nan"]).fails(2, &["--max-shard-size"]);
    quantize(&["--fallback", "zeros"]).fails(2, &["zeros", "rtn", "midpoint", "stdclip", "none"]);
    for threshold in ["x", "-1", "0.5", "101%", "-1%", "nan%"] {
        let option = format!("--fallback-threshold={threshold}");
        quantize(&[&option]).fails(2, &[threshold, "number of tokens", "0% to 100%"]);
    }
    quantize(&["--max-fallback=-1"]).fails(2, &["-1"]);
    quantize(&["--eora-rank", "0"]).fails(2, &["0"]);
    for damping in ["0", "1", "-0.1", "nan", "inf"] {
        let option = format!("--damp-percent={damping}");
        quantize(&[&option]).fails(2, &["damp_percent"]);
    }
    quantize(&["--damp-auto-increment=-1"]).fails(2, &["damp_auto_increment"]);
    quantize(&["--mse", "nan"]).fails(2, &["mse"]);
    quantize(&["--mse", "0"]).fails(2, &["mse"]);
}

#[test]
fn contradictions_are_wrong_usage() {
    quantize(&["--desc-act", "--act-group-aware"]).fails(2, &["choose one"]);
    quantize(&["--static-groups", "--act-group-aware"]).fails(2, &["static_groups"]);
    quantize(&["--group-size", "-1", "--act-group-aware"]).fails(2, &["group_size is -1"]);
    quantize(&["--eora-out", "x"]).fails(2, &["--eora-rank"]);
    quantize(&["--eora-rank", "8", "--method", "rtn"]).fails(2, &["--eora-rank", "rtn"]);
    gptq(["generate", "m", "--prompt", "x", "--system", "y"]).fails(2, &["--chat"]);
}

#[test]
fn gptq_without_text_is_wrong_usage_with_a_hint() {
    let ran = gptq(args!["quantize", mini(), "--out", "no-out"]);
    ran.fails(2, &["--calib FILE", "--method rtn"]);
}

#[test]
fn sampling_out_of_range_is_wrong_usage() {
    let generate = |option: &str| gptq(["generate", "no-model", "--prompt", "x", option]);
    generate("--temperature=-1").fails(2, &["--temperature"]);
    generate("--temperature=nan").fails(2, &["--temperature"]);
    generate("--top-p=0").fails(2, &["--top-p"]);
    generate("--top-p=1.5").fails(2, &["--top-p"]);
    generate("--max-new-tokens=0").fails(2, &["0"]);
}
