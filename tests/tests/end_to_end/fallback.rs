//! Linears that cannot be solved: quantized otherwise and said, or the run fails.

use gptq_core::{Bits, Damping, Error, FallbackStrategy, Hessian, Portable, solve};
use gptq_models::{
    Capsule, Checkpoint, FallbackPolicy, FallbackThreshold, Method, QuantizeOptions,
};
use gptq_tests::{ModelFiles, assert_says, file_names, random_tokens, read_json};
use serde_json::json;

use crate::{
    Run, calibration, options, packed, refused, rules, source,
    stubborn::{Stubborn, indefinite},
};

/// More tokens wanted than there are.
fn too_few(strategy: FallbackStrategy) -> QuantizeOptions {
    let threshold = FallbackThreshold::Tokens(12 * 48 + 1);
    let fallback = Some(FallbackPolicy { strategy, threshold });
    QuantizeOptions { fallback, ..options(Bits::B3) }
}

#[test]
fn rounding_as_a_fallback_writes_what_rounding_writes() {
    let fell = Run::with(&too_few(FallbackStrategy::Rtn));
    let rounded = Run::with(&QuantizeOptions { method: Method::Rtn, ..options(Bits::B3) });
    assert_eq!(fell.report.sha256, rounded.report.sha256);
    assert_eq!(fell.report.fallbacks().count(), 14);
    assert_eq!(rounded.report.fallbacks().count(), 0, "it was asked for");
    for (name, fallback) in fell.report.fallbacks() {
        assert_eq!(fallback.strategy, "rtn");
        assert_says(&fallback.reason, &["576 of 576 tokens", "577"]);
        assert!(fallback.mean_abs_error > 0.0, "{name}");
    }
    let report = read_json(&fell.file("gptq_report.json"));
    let layer = &report["layers"][0];
    assert_eq!(layer["fallback"]["strategy"], "rtn");
    assert_eq!(layer["tokens"], 576);
    assert!(layer["loss"].is_null());
    let config = read_json(&fell.file("quantize_config.json"));
    assert_eq!(config["meta"]["fallback"], json!({"strategy": "rtn", "threshold": 577}));
}

#[test]
fn every_strategy_loads_again_and_does_its_own() {
    // Weights of both signs have the same middle as their range around 0: midpoint is rtn here.
    let ids = &random_tokens(4, 1, 40)[0];
    let mut seen = Vec::new();
    for strategy in &FallbackStrategy::ALL[1..] {
        for sym in [true, false] {
            let mut options = too_few(*strategy);
            options.config.sym = sym;
            let run = Run::with(&options);
            let logits = run.load().logits(ids).unwrap();
            assert!(logits.iter().all(|l| l.is_finite()), "{strategy} sym {sym}");
            seen.push((strategy, sym, packed(&run, |_| true)));
        }
    }
    for (i, a) in seen.iter().enumerate() {
        for b in &seen[..i] {
            assert!(a.1 != b.1 || a.2 != b.2, "{} {} sym {}", a.0, b.0, a.1);
        }
    }
}

#[test]
fn enough_tokens_change_nothing() {
    let plain = Run::with(&options(Bits::B3));
    let mut exactly = too_few(FallbackStrategy::Rtn);
    let threshold = FallbackThreshold::Tokens(12 * 48);
    exactly.fallback = Some(FallbackPolicy { threshold, ..FallbackPolicy::default() });
    assert_eq!(Run::with(&exactly).report.sha256, plain.report.sha256);
    let none = QuantizeOptions { fallback: None, ..options(Bits::B3) };
    let none = Run::with(&none);
    assert_eq!(none.report.sha256, plain.report.sha256);
    assert!(read_json(&none.file("quantize_config.json"))["meta"]["fallback"].is_null());
}

#[test]
fn a_hessian_that_no_damping_saves_falls_back_with_its_reason() {
    let run = Run::on(&Stubborn, &source(), &calibration(), &options(Bits::B4)).unwrap();
    for layer in &run.report.layers {
        let solved = layer.name.ends_with("down_proj");
        assert_eq!(layer.fallback.is_none(), solved, "{}", layer.name);
        assert_eq!(layer.loss.is_some(), solved, "{}", layer.name);
        if let Some(fallback) = &layer.fallback {
            assert_says(&fallback.reason, &["not positive definite", "7 attempts"]);
        }
    }
    let none = QuantizeOptions { fallback: None, ..options(Bits::B4) };
    let said = Run::on(&Stubborn, &source(), &calibration(), &none).err().unwrap();
    assert_says(&said, &["layers.0.self_attn.q_proj", "not positive definite"]);
}

/// What could not be solved is left beside the result, a few times, and fails in the same way.
#[test]
fn a_hessian_that_no_damping_saves_is_kept_with_weights_and_settings() {
    let run = Run::on(&Stubborn, &source(), &calibration(), &options(Bits::B3)).unwrap();
    let folder = run.dir.with_file_name("out.capsules");
    assert_eq!(file_names(&folder).len(), 3);
    let layer = "model.layers.0.self_attn.q_proj";
    let reason = &run.report.layers[0].fallback.as_ref().unwrap().reason;
    assert_says(reason, &["out.capsules", layer, "gptq solve-layer --replay"]);

    let capsule = Capsule::open(&folder.join(format!("{layer}.safetensors"))).unwrap();
    assert_eq!((capsule.layer.as_str(), capsule.config.bits), (layer, Bits::B3));
    assert_eq!(capsule.hessian, indefinite());
    let stored = source().matrix(&format!("{layer}.weight"), 64, 64).unwrap();
    assert_eq!(capsule.weight, stored);
    let hessian = Hessian::from_matrix(capsule.hessian).unwrap();
    let again = solve(capsule.weight.view(), hessian, &capsule.config, &Portable).unwrap_err();
    assert!(matches!(again, Error::NotPositiveDefinite { .. }), "{again}");

    let none = QuantizeOptions { fallback: None, ..options(Bits::B4) };
    let said = Run::on(&Stubborn, &source(), &calibration(), &none).err().unwrap();
    assert_says(&said, &["not positive definite", "out.capsules", "--replay"]);
}

#[test]
fn linears_damped_otherwise_are_solved_all_the_same() {
    let mut options = options(Bits::B4);
    options.dynamic = rules(&json!({".*k_proj": {"damp_percent": 0.5}}));
    let run = Run::on(&Stubborn, &source(), &calibration(), &options).unwrap();
    for layer in &run.report.layers {
        let solved = ["k_proj", "down_proj"].iter().any(|name| layer.name.ends_with(name));
        assert_eq!(layer.fallback.is_none(), solved, "{}", layer.name);
    }
}

#[test]
fn two_tokens_are_solved_on_a_raised_diagonal_that_is_reported() {
    let mut options = options(Bits::B4);
    options.config.damping = Damping { percent: 1e-12, auto_increment: 0.0 };
    let run = Run::of(&source(), &random_tokens(1, 1, 2), &options);
    assert_eq!(run.report.fallbacks().count(), 0);
    assert!(run.report.layers.iter().all(|layer| layer.damp_floor.unwrap() > 0));
    let plain = Run::of(&source(), &calibration(), &crate::options(Bits::B4));
    assert!(plain.report.layers.iter().all(|layer| layer.damp_floor == Some(0)));
}

#[test]
fn inputs_that_are_always_zero_do_not_make_weights_zero() {
    let mut model = ModelFiles::of("arch/llama");
    model.tensor("model.layers.0.post_attention_layernorm.weight").bytes.fill(0);
    let dir = tempfile::tempdir().unwrap();
    model.write(dir.path());
    let source = Checkpoint::open(dir.path()).unwrap();
    let run = Run::of(&source, &calibration(), &options(Bits::B4));
    let names: Vec<&str> = run.report.fallbacks().map(|(name, _)| name).collect();
    let expected = ["gate_proj", "up_proj", "down_proj"].map(|n| format!("model.layers.0.mlp.{n}"));
    assert_eq!(names, expected);
    let rounded =
        Run::of(&source, &[], &QuantizeOptions { method: Method::Rtn, ..options(Bits::B4) });
    let mlp = |name: &str| name.contains("layers.0.mlp");
    assert!(packed(&run, mlp) == packed(&rounded, mlp));
    let none = QuantizeOptions { fallback: None, ..options(Bits::B4) };
    assert_says(&refused(&source, &calibration(), &none), &["layers.0.mlp.gate_proj", "no input"]);
}

#[test]
fn shares_that_make_no_sense_are_refused() {
    for share in [-0.1, 1.5] {
        let threshold = FallbackThreshold::Share(share);
        let mut options = options(Bits::B4);
        options.fallback = Some(FallbackPolicy { threshold, ..FallbackPolicy::default() });
        assert_says(&refused(&source(), &calibration(), &options), &["threshold", "0% to 100%"]);
    }
}
