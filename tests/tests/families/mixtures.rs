//! Experts: who sees which tokens, and what stands in the report.

use gptq_core::FallbackStrategy;
use gptq_kernels::CpuBackend;
use gptq_models::{
    FallbackPolicy, FallbackThreshold, Method, QuantizeOptions, Report, Routing, quantize,
};
use gptq_tests::{Tensors, assert_says, random_tokens, read_tensors};
use serde_json::json;

use crate::golden::{Golden, open};

const SAMPLES: usize = 4;
const LENGTH: usize = 24;

fn run(golden: &Golden, options: QuantizeOptions) -> (Report, Tensors) {
    let (source, parent) = (golden.folder(), tempfile::tempdir().unwrap());
    let out = parent.path().join("out");
    let vocabulary = golden.files.config["vocab_size"].as_u64().unwrap() as u32;
    let mut samples = random_tokens(5, SAMPLES, LENGTH);
    samples.iter_mut().flatten().for_each(|id| *id %= vocabulary);
    let checkpoint = open(source.path());
    let report =
        quantize(&checkpoint, &samples, &CpuBackend::new(), &options, &out, &mut ()).unwrap();
    (report, read_tensors(&out.join("model.safetensors")))
}

fn with(routing: Routing) -> QuantizeOptions {
    QuantizeOptions { routing, ..QuantizeOptions::default() }
}

#[test]
fn every_token_goes_to_as_many_experts_as_the_config_says() {
    for (name, top) in [("mixtral", 2), ("qwen3_moe", 2), ("gpt_oss", 2), ("llama4_text", 1)] {
        let golden = Golden::of(name);
        let config = &golden.files.config;
        let chosen = config["num_experts_per_tok"].as_u64().unwrap_or(top);
        let (report, _) = run(&golden, with(Routing::Routed));
        let mut by_block = std::collections::BTreeMap::<&str, u64>::new();
        for layer in report
            .layers
            .iter()
            .filter(|layer| layer.name.contains("down_proj") || layer.name.ends_with("w2"))
        {
            if let Some(sent) = layer.routed_tokens {
                assert_eq!(sent, layer.tokens);
                let (block, _) = layer.name.split_once(".experts.").unwrap();
                *by_block.entry(block).or_default() += sent;
            }
        }
        assert!(!by_block.is_empty());
        for (block, sent) in by_block {
            assert_eq!(sent, chosen * (SAMPLES * LENGTH) as u64, "{name}: {block}");
        }
    }
}

#[test]
fn all_tokens_go_to_all_experts_if_asked() {
    for name in ["mixtral", "deepseek_v3", "llama4_text"] {
        let (report, _) = run(&Golden::of(name), with(Routing::All));
        assert!(report.layers.iter().all(|layer| layer.tokens == (SAMPLES * LENGTH) as u64));
        assert_eq!(report.fallbacks().count(), 0);
    }
}

#[test]
fn if_the_router_chooses_all_experts_the_two_ways_are_one() {
    let mut golden = Golden::of("mixtral");
    let experts = golden.files.config["num_local_experts"].clone();
    golden.files.config["num_experts_per_tok"] = experts;
    let (_, routed) = run(&golden, with(Routing::Routed));
    let (_, all) = run(&golden, with(Routing::All));
    assert!(routed == all);
}

#[test]
fn what_other_programs_make_of_experts_is_said() {
    let said = |name: &str| run(&Golden::of(name), with(Routing::Routed)).0.notices.concat();
    assert_says(&said("qwen3_moe"), &["experts", "transformers"]);
    assert_says(&said("mixtral"), &["block_sparse_moe", "vLLM", "GPTQModel"]);
    assert!(!said("llama").contains("experts"));
}

#[test]
fn starved_experts_fall_back_and_are_counted() {
    let golden = Golden::of("qwen3_moe");
    let threshold = FallbackThreshold::Tokens(30);
    let policy = FallbackPolicy { strategy: FallbackStrategy::Rtn, threshold };
    let options = QuantizeOptions { fallback: Some(policy), ..QuantizeOptions::default() };
    let (report, _) = run(&golden, options);
    let starved = report.layers.iter().filter(|layer| layer.tokens < 30);
    assert_eq!(starved.count(), report.fallbacks().count());
    assert!(report.fallbacks().count() > 0);
    assert!(report.fallbacks().all(|(name, _)| name.contains(".experts.")));
}

#[test]
fn the_two_ways_of_solving_a_block_both_know_experts() {
    let golden = Golden::of("qwen2_moe");
    let options = QuantizeOptions { true_sequential: false, ..QuantizeOptions::default() };
    let (report, _) = run(&golden, options);
    assert_eq!(report.coverage.quantized, report.coverage.expected);
}

#[test]
fn gptaq_leaves_experts_to_gptq() {
    let golden = Golden::of("mixtral");
    let mut options = QuantizeOptions::default();
    options.config.gptaq_alpha = 0.25;
    let (report, _) = run(&golden, options);
    assert_eq!(report.coverage.quantized, report.coverage.expected);
}

#[test]
fn a_rule_may_leave_some_experts_of_one_tensor_dense() {
    let golden = Golden::of("gpt_oss");
    let rules = json!({r"-:.*\.experts\.1\..*": {}});
    let options = QuantizeOptions {
        method: Method::Rtn,
        dynamic: gptq_pack::DynamicRules::from_json(&rules).unwrap(),
        ..QuantizeOptions::default()
    };
    let (report, tensors) = run(&golden, options);
    assert!(report.coverage.skipped > 0);
    let dense = &tensors["model.layers.0.mlp.experts.1.gate_proj.weight"];
    let whole = &golden.files.tensors["model.layers.0.mlp.experts.gate_up_proj"];
    let (inner, hidden) = (dense.shape[0], dense.shape[1]);
    let at = |expert: usize, input: usize, output: usize| {
        let i = (expert * hidden + input) * 2 * inner + output;
        &whole.bytes[4 * i..4 * i + 4]
    };
    for output in 0..inner {
        for input in 0..hidden {
            let i = 4 * (output * hidden + input);
            // Gate's channels are the even ones.
            assert_eq!(&dense.bytes[i..i + 4], at(1, input, 2 * output));
        }
    }
    assert!(tensors.contains_key("model.layers.0.mlp.experts.0.gate_proj.qweight"));
    assert!(tensors.contains_key("model.layers.0.mlp.experts.0.gate_proj.bias"));
}
