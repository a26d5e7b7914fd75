//! `eval`, `generate` and `inspect`, in words and as JSON.

use serde_json::Value;

use crate::{args, fixture, gptq, mini, text};

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn eval_says_perplexity_tokens_and_windows() {
    let text = text("evaluation.txt");
    let ran = gptq(args!["eval", mini(), "--text", text, "--seqlen", "64", "--json"]);
    let said = ran.json();
    assert_eq!(keys(&said), ["ppl", "tokens", "windows", "precision"]);
    let ppl = said["ppl"].as_f64().unwrap();
    assert!(ppl > 5.0 && ppl < 500.0, "{ppl}");
    let windows = said["windows"].as_u64().unwrap();
    assert!(windows > 10);
    assert_eq!(said["tokens"].as_u64(), Some(windows * 63));
}

#[test]
fn eval_against_itself_finds_no_distance() {
    let said = gptq(args![
        "eval",
        mini(),
        "--text",
        text("evaluation.txt"),
        "--reference",
        mini(),
        "--seqlen",
        "128",
        "--max-windows",
        "4",
        "--json",
    ])
    .json();
    assert_eq!(
        keys(&said),
        ["ppl", "tokens", "windows", "kl", "top1", "ppl_reference", "precision"]
    );
    assert_eq!(said["windows"], 4);
    assert_eq!(said["tokens"], 4 * 127);
    assert_eq!(said["kl"].as_f64(), Some(0.0));
    assert_eq!(said["top1"].as_f64(), Some(1.0));
    assert_eq!(said["ppl"], said["ppl_reference"]);
}

#[test]
fn overlapping_windows_score_every_token_but_the_first() {
    let tokens = |options: &[&str]| {
        let fixed = args!["eval", mini(), "--text", text("evaluation.txt"), "--json"];
        let said = gptq(fixed.into_iter().chain(options.iter().map(Into::into))).json();
        said["tokens"].as_u64().unwrap()
    };
    let apart = tokens(&["--seqlen", "256"]);
    let sliding = tokens(&["--seqlen", "256", "--stride", "128"]);
    assert_eq!(apart % 255, 0);
    assert!(sliding > apart && sliding < apart / 255 * 256 + 256, "{sliding} and {apart}");
    assert_eq!(sliding, tokens(&["--seqlen", "256", "--stride", "200"]));
}

#[test]
fn eval_prints_a_table() {
    let ran = gptq(args![
        "eval",
        mini(),
        "--text",
        text("evaluation.txt"),
        "--seqlen",
        "128",
        "--max-windows",
        "1",
        "--reference",
        mini(),
    ]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for word in ["perplexity", "KL", "top-1", "reference", "1.0000", "127"] {
        assert!(ran.stdout.contains(word), "{word}: {}", ran.stdout);
    }
}

#[test]
fn generate_says_text_ids_and_speed() {
    let said = gptq(args![
        "generate",
        mini(),
        "--prompt",
        "The bridge was built in",
        "--max-new-tokens",
        "8",
        "--json",
    ])
    .json();
    for key in [
        "text",
        "ids",
        "ended",
        "prompt_tokens",
        "new_tokens",
        "prefill_seconds",
        "decode_seconds",
        "tokens_per_second",
    ] {
        assert!(!said[key].is_null(), "{key}: {said}");
    }
    let ids = said["ids"].as_array().unwrap().len();
    assert_eq!(said["new_tokens"].as_u64(), Some(ids as u64));
    assert!(ids == 8 || said["ended"] == true, "{said}");
}

#[test]
fn generated_text_goes_to_stdout_and_figures_to_stderr() {
    let common = ["--prompt", "The bridge was built in", "--max-new-tokens", "6"];
    let run = |extra: &[&str]| {
        let fixed = args!["generate", mini()];
        gptq(fixed.into_iter().chain(common.iter().chain(extra).map(Into::into)))
    };
    let (plain, json) = (run(&[]), run(&["--json"]).json());
    assert_eq!(plain.code, 0, "{}", plain.stderr);
    assert_eq!(plain.stdout, format!("{}\n", json["text"].as_str().unwrap()));
    assert!(plain.stderr.contains("prompt tokens"), "{}", plain.stderr);
}

#[test]
fn the_seed_decides_what_is_drawn() {
    let ids = |seed: &str| {
        gptq(args![
            "generate",
            mini(),
            "--prompt",
            "In the morning",
            "--temperature",
            "1.5",
            "--top-k",
            "200",
            "--top-p",
            "0.95",
            "--max-new-tokens",
            "12",
            "--seed",
            seed,
            "--json",
        ])
        .json()["ids"]
            .clone()
    };
    assert_eq!(ids("7"), ids("7"));
    assert_ne!(ids("7"), ids("8"));
}

#[test]
fn inspect_says_what_a_checkpoint_holds() {
    let said = gptq(args!["inspect", fixture("checkpoints/b4_g32_sym_dynamic"), "--json"]).json();
    let all = [
        "model_type",
        "format",
        "quantization_config",
        "zero_points",
        "layers",
        "bits_per_weight",
        "packed_bytes",
        "dense",
        "shares",
        "bytes",
        "findings",
    ];
    assert_eq!(keys(&said), all);
    assert_eq!((&said["format"], &said["zero_points"]["found"]), (&"gptq".into(), &"gptq".into()));
    // Every byte is somewhere.
    let shares = said["shares"].as_array().unwrap().iter().map(|share| share["bytes"].as_u64());
    assert_eq!(shares.sum::<Option<u64>>(), said["bytes"].as_u64());
    let packed = said["packed_bytes"].as_object().unwrap().values().map(|n| n.as_u64().unwrap());
    let dense = said["dense"].as_object().unwrap().values().map(|d| d["bytes"].as_u64().unwrap());
    assert_eq!(Some(packed.chain(dense).sum::<u64>()), said["bytes"].as_u64());
    assert_eq!(said["model_type"], "llama");
    assert_eq!(said["quantization_config"]["bits"], 4);
    let layers = said["layers"].as_array().unwrap();
    let bits: std::collections::BTreeSet<u64> =
        layers.iter().map(|layer| layer["bits"].as_u64().unwrap()).collect();
    assert!(bits.len() > 1, "overrides are seen: {bits:?}");
    assert_eq!(said["findings"], serde_json::json!([]));
}

#[test]
fn inspect_of_a_dense_model_finds_no_packed_layers() {
    let said = gptq(args!["inspect", fixture("arch/llama"), "--json"]).json();
    assert!(said["quantization_config"].is_null());
    assert_eq!(said["layers"], serde_json::json!([]));
    assert_eq!(said["dense"]["F16"]["tensors"], 21);
    assert_eq!(said["dense"]["F16"]["bytes"], said["bytes"]);
    let plain = gptq(args!["inspect", fixture("arch/llama")]);
    assert!(plain.stdout.contains("no packed layers"), "{}", plain.stdout);
}

#[test]
fn inspect_lists_layers_when_asked() {
    let model = fixture("checkpoints/b3_g32_sym");
    let short = gptq(args!["inspect", model]);
    let long = gptq(args!["inspect", model, "--layers"]);
    let name = "model.layers.1.mlp.down_proj";
    assert!(!short.stdout.contains(name), "{}", short.stdout);
    assert!(long.stdout.contains(name), "{}", long.stdout);
    assert_eq!(long.stdout.matches("model.layers.").count(), 14);
}
