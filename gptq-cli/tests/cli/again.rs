//! Runs beside a result: planned before, reproduced, done again in part, held to a policy, and layers
//! that failed tried once more.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use gptq_models::{QuantizeOptions, Recipe};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::Value;

use crate::{Ran, args, gptq, mini, short_run, text};

fn report(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("gptq_report.json")).unwrap()).unwrap()
}

fn hashes(dir: &Path) -> BTreeMap<String, Value> {
    serde_json::from_value(report(dir)["sha256"].clone()).unwrap()
}

fn quantized(dir: &Path, options: &[&str]) -> PathBuf {
    let out = dir.join("first");
    let ran = short_run(&mini(), &out, options);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    out
}

fn requantize(result: &Path, out: &Path, options: &[&str]) -> Ran {
    let (source, calib) = (mini(), text("calibration.txt"));
    let fixed = args!["requantize", result, "--source", source, "--calib", calib, "--out", out];
    gptq(fixed.into_iter().chain(options.iter().map(Into::into)))
}

/// Solved with the same settings from the same inputs, a layer is what it was, whichever it is.
#[test]
fn layers_done_again_with_their_own_settings_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let first = quantized(dir.path(), &["--gptaq", "--bits", "3", "--asym"]);
    for (i, rule) in [".*", r"model\.layers\.2\.", ".*(k|up)_proj$"].iter().enumerate() {
        let out = dir.path().join(i.to_string());
        let ran = requantize(&first, &out, &["--layers", rule]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert_eq!(hashes(&out), hashes(&first), "{rule}");
        assert_eq!(report(&out)["kept"]["redone"], *rule);
    }
}

#[test]
fn only_the_layers_asked_for_change() {
    let dir = tempfile::tempdir().unwrap();
    let first = quantized(dir.path(), &[]);
    let out = dir.path().join("second");
    let ran =
        requantize(&first, &out, &["--layers", ".*down_proj", "--set", r#"{"bits": 8}"#, "--json"]);
    assert_eq!(ran.json()["layers"], 28);
    let (before, after) = (hashes(&first), hashes(&out));
    for (name, hash) in &after {
        let same = before.get(name) == Some(hash);
        assert_eq!(same, !name.contains("down_proj") || name.ends_with("g_idx"), "{name}");
    }
    let (before, after) = (report(&first), report(&out));
    for (a, b) in
        before["layers"].as_array().unwrap().iter().zip(after["layers"].as_array().unwrap())
    {
        let redone = a["name"].as_str().unwrap().contains("down_proj");
        assert_eq!(b["bits"], if redone { 8 } else { 4 });
        assert_eq!(redone, b["loss"].as_f64().unwrap() < 0.1 * a["loss"].as_f64().unwrap(), "{b}");
        assert_eq!(!redone, b["loss"] == a["loss"]);
    }
    let config: Value =
        serde_json::from_slice(&fs::read(out.join("quantize_config.json")).unwrap()).unwrap();
    assert_eq!(config["dynamic"][".*down_proj"]["bits"], 8);
    assert_eq!(gptq(args!["verify", &out, "--source", mini()]).code, 0);
    gptq(args!["generate", &out, "--prompt", "The sea", "--max-new-tokens", "2", "--json"]).json();

    // Left dense instead.
    let dense = dir.path().join("dense");
    assert_eq!(requantize(&first, &dense, &["--layers", ".*down_proj", "--skip"]).code, 0);
    assert!(hashes(&dense).contains_key("model.layers.0.mlp.down_proj.weight"));

    let ran =
        gptq(args!["reproduce", &out, "--source", mini(), "--calib", text("calibration.txt")]);
    ran.fails(1, &["some layers done again", "requantize"]);
    let ran = requantize(&mini(), &dir.path().join("x"), &["--layers", ".*"]);
    ran.fails(1, &["gptq_report.json"]);
    let ran = requantize(&first, &dir.path().join("x"), &["--layers", "down_proj"]);
    ran.fails(1, &["\"down_proj\" matches no linear", ".*down_proj"]);
    let ran = requantize(&first, &dir.path().join("x"), &["--layers", "(", "--skip"]);
    assert!(ran.code != 0 && !ran.stderr.contains("panicked"), "{}", ran.stderr);
}

#[test]
fn a_result_is_reproduced_from_what_its_report_says() {
    let dir = tempfile::tempdir().unwrap();
    let first = quantized(dir.path(), &["--bits", "3", "--desc-act", "--mse", "2.4"]);
    let again = |source: &Path, calib: &Path| {
        gptq(args!["reproduce", &first, "--source", source, "--calib", calib, "--json"])
    };
    let ran = again(&mini(), &text("calibration.txt"));
    assert_eq!(ran.json()["reproduced"], true, "{}", ran.stderr);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something is left over");

    again(&mini(), &text("evaluation.txt")).fails(1, &["not the tokens", "evaluation.txt is not"]);
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    for entry in fs::read_dir(mini()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, other.join(path.file_name().unwrap())).unwrap();
    }
    let weights = other.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    again(&other, &text("calibration.txt")).fails(1, &["model.safetensors not as in the run"]);
    let ran = gptq(args!["reproduce", &first, "--source", mini()]);
    ran.fails(2, &["calibrated on calibration.txt", "--calib"]);
}

#[test]
fn a_policy_compares_with_the_source_and_names_what_loses_most() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let heldout = text("evaluation.txt");
    let heldout = heldout.to_str().unwrap();
    let with = |name: &str, more: &[&str]| {
        let fixed = ["--bits", "3", "--json", "--heldout", heldout, "--heldout-windows", "4"];
        short_run(&mini(), &dir.path().join(name), &[&fixed[..], more].concat())
    };
    let said = with("out", &["--max-kl", "5", "--max-ppl-increase", "400"]).json();
    let eval = args![
        "eval",
        &out,
        "--text",
        heldout,
        "--seqlen",
        "64",
        "--max-windows",
        "4",
        "--reference",
        mini(),
        "--json"
    ];
    let eval = gptq(eval).json();
    for key in ["kl", "ppl", "ppl_reference", "top1"] {
        assert_eq!(said["quality"][key], eval[key], "{key}");
    }
    for limit in [["--max-kl", "0.00001"], ["--max-ppl-increase", "-50"]] {
        let ran = with(limit[0], &limit);
        assert_eq!(ran.code, 3, "{}", ran.stderr);
        for word in [limit[0], "lose most", "model.layers.", "of the loss", "--dynamic '{"] {
            assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
        }
        assert!(dir.path().join(limit[0]).join("config.json").exists());
    }
    let ran = short_run(&mini(), &dir.path().join("x"), &["--max-kl", "1"]);
    ran.fails(2, &["--heldout"]);
}

#[test]
fn a_plan_knows_the_bytes_of_the_result_and_refuses_what_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    for (name, options) in [
        ("a", &["--bits", "4"][..]),
        ("b", &["--bits", "3", "--group-size", "64", "--asym"]),
        ("c", &["--method", "rtn", "--format", "compressed-tensors"]),
    ] {
        let fixed = args!["plan", mini(), "--nsamples", "4", "--seqlen", "64", "--json"];
        let fixed = fixed.into_iter().chain(args!["--measure", "0.3"]);
        let planned = gptq(fixed.chain(options.iter().map(Into::into))).json();
        let said = short_run(&mini(), &dir.path().join(name), &[options, &["--json"]].concat());
        assert_eq!(planned["plan"]["output_bytes"], said.json()["output_bytes"]);
        assert_eq!(planned["plan"]["linears"], 28);
    }
    let ran = gptq(args!["plan", mini(), "--max-ram", "0.01", "--measure", "0"]);
    ran.fails(1, &["does not fit 9 MiB", "for Hessians", "together"]);
    let text = dir.path().join("long.txt");
    fs::write(&text, "words ".repeat(1 << 18)).unwrap();
    for command in [&args!["plan", mini()][..], &args!["quantize", mini(), "--out", "never"]] {
        let limited = args!["--calib", &text, "--max-ram", "0.1"];
        let ran = gptq(command.iter().cloned().chain(limited));
        ran.fails(1, &["1 MiB", "192 MiB to tokenize", "allows 95 MiB"]);
    }
    let ran = gptq(args!["plan", mini(), "--measure", "0"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("memory at most"), "{}", ran.stdout);
}

/// A capsule as a run leaves it: indefinite, so that nothing helps, or sound.
fn capsule(path: &Path, off_diagonal: f32) {
    let recipe = Recipe::of(&QuantizeOptions::default());
    let recipe = serde_json::to_value(recipe).unwrap();
    let mut recipe = recipe.as_object().unwrap().clone();
    recipe["group_size"] = 2.into();
    let (layer, problem) = ("model.layers.0.mlp.up_proj".to_owned(), "it failed there".to_owned());
    let settings = serde_json::to_string(&recipe).unwrap();
    let metadata = HashMap::from([
        ("layer".to_owned(), layer),
        ("settings".to_owned(), settings),
        ("problem".to_owned(), problem),
    ]);
    let hessian: Vec<u8> = (0..16)
        .map(|at| if at % 5 == 0 { 1.0 } else { off_diagonal })
        .flat_map(f32::to_le_bytes)
        .collect();
    let weight: Vec<u8> = (0..8).flat_map(|at| (at as f32 - 3.5).to_le_bytes()).collect();
    let views = [
        ("weight", TensorView::new(Dtype::F32, vec![2, 4], &weight).unwrap()),
        ("hessian", TensorView::new(Dtype::F32, vec![4, 4], &hessian).unwrap()),
    ];
    fs::write(path, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
}

#[test]
fn a_layer_that_failed_is_tried_again_with_its_settings() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layer.safetensors");
    capsule(&path, 2.5);
    let ran = gptq(args!["solve-layer", "--replay", &path]);
    ran.fails(1, &["up_proj", "it failed there", "not positive definite"]);
    capsule(&path, 0.5);
    let out = dir.path().join("out.safetensors");
    let ran = gptq(args!["solve-layer", "--replay", &path, "--out", &out, "--json"]);
    assert!(ran.json()["loss"].as_f64().unwrap() >= 0.0);
    assert!(out.exists());
    // The same file with settings of one's own.
    let ran = gptq(args!["solve-layer", "--input", &path, "--out", &out, "--group-size", "4"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let ran = gptq(args!["solve-layer", "--replay", &path, "--bits", "3"]);
    ran.fails(2, &["--bits"]);
    let ran = gptq(args!["solve-layer", "--replay", mini().join("model.safetensors")]);
    ran.fails(1, &["model.safetensors", "no capsule"]);
}
