//! Quantizing straight into a format is quantizing and then converting.

use std::path::Path;

use gptq_core::{ActOrder, Bits, GroupSize, QuantConfig};
use gptq_kernels::CpuBackend;
use gptq_models::{Method, QuantizeOptions, inspect, quantize};
use gptq_pack::{DynamicRules, Format};
use gptq_tests::{assert_says, fixture, random_tokens, read_json, read_tensors};
use serde_json::json;

use crate::{Folder, logits, open, to, wide_llama};

fn options(format: Format, group: i64, sym: bool) -> QuantizeOptions {
    let config = QuantConfig {
        bits: Bits::B4,
        group_size: GroupSize::from_file(group).unwrap(),
        sym,
        act_order: ActOrder::Natural,
        ..QuantConfig::default()
    };
    QuantizeOptions { config, format, ..QuantizeOptions::default() }
}

fn run(source: &Path, options: &QuantizeOptions) -> Result<Folder, String> {
    let out = Folder::new();
    let samples = match options.method {
        Method::Gptq => random_tokens(1, 12, 48),
        Method::Rtn => Vec::new(),
    };
    let backend = CpuBackend::new();
    let report = quantize(&open(source), &samples, &backend, options, &out.dir, &mut ());
    assert_eq!(out.dir.exists(), report.is_ok());
    report.map(|_| out).map_err(|e| e.to_string())
}

/// Both ways, compared tensor by tensor.
fn check(source: &Path, options: &QuantizeOptions) -> Folder {
    let direct = run(source, options).unwrap();
    let plain = QuantizeOptions { format: Format::GptqV2, ..options.clone() };
    let plain = run(source, &plain).unwrap();
    let converted = to(&plain.dir, options.format);
    let tensors = |out: &Folder| read_tensors(&out.dir.join("model.safetensors"));
    assert!(tensors(&direct) == tensors(&converted), "{}", options.format);
    let found = inspect(&open(&direct.dir)).unwrap();
    assert!(found.findings.is_empty(), "{}: {:?}", options.format, found.findings);
    assert_eq!(logits(&direct.dir), logits(&plain.dir), "{}", options.format);
    direct
}

#[test]
fn awq_and_compressed_tensors_hold_what_gptq_holds() {
    for sym in [true, false] {
        for format in [Format::Awq, Format::CompressedTensors] {
            let out = check(&fixture("arch/llama"), &options(format, 32, sym));
            let config = read_json(&out.dir.join("config.json"));
            let method = &config["quantization_config"]["quant_method"];
            assert_eq!(method, if format == Format::Awq { "awq" } else { "compressed-tensors" });
            assert!(!out.dir.join("quantize_config.json").exists());
        }
    }
}

#[test]
fn compressed_tensors_take_rules_orders_and_a_head() {
    let mut options = options(Format::CompressedTensors, 32, true);
    options.lm_head = true;
    options.dynamic = DynamicRules::from_json(&json!({
        "-:.*o_proj": {},
        ".*down_proj": {"bits": 8},
    }))
    .unwrap();
    check(&fixture("arch/llama"), &options);
    options.config.act_order = ActOrder::DescAct;
    check(&fixture("arch/llama"), &options);
}

#[test]
fn marlin_holds_layers_of_its_size() {
    let source = wide_llama();
    for group in [128, -1] {
        let options =
            QuantizeOptions { method: Method::Rtn, ..options(Format::Marlin, group, true) };
        let out = check(source.path(), &options);
        let config = read_json(&out.dir.join("quantize_config.json"));
        assert_eq!(config["checkpoint_format"], "marlin");
    }
}

#[test]
fn what_a_format_cannot_hold_is_refused_before_a_token_is_looked_at() {
    let refused = |options: QuantizeOptions| {
        let out = Folder::new();
        let samples = [vec![u32::MAX]];
        let source = open(&fixture("arch/llama"));
        let ran = quantize(&source, &samples, &CpuBackend::new(), &options, &out.dir, &mut ());
        assert!(!out.dir.exists());
        ran.unwrap_err().to_string()
    };
    let mut three = options(Format::Awq, 32, true);
    three.config.bits = Bits::B3;
    assert_says(&refused(three), &["model.layers.0", "awq", "4 bits", "3"]);
    let said = refused(options(Format::Marlin, 32, true));
    assert_says(&said, &["marlin", "group_size", "128"]);
    let said = refused(options(Format::Marlin, -1, false));
    assert_says(&said, &["marlin", "sym"]);
    let mut ordered = options(Format::Awq, 32, true);
    ordered.config.act_order = ActOrder::DescAct;
    assert_says(&refused(ordered), &["awq", "g_idx"]);
    let mut mixed = options(Format::Awq, 32, true);
    mixed.dynamic = DynamicRules::from_json(&json!({".*down_proj": {"group_size": 16}})).unwrap();
    assert_says(&refused(mixed), &["awq"]);
}
