//! Dynamic rules: what they say is in the file, and holds when it is read again.

use gptq_core::{ActOrder, Bits, Reference};
use gptq_models::{Checkpoint, Model, inspect};
use gptq_tests::{fixture, largest_difference, random_tokens, read_json, read_tensors};
use serde_json::{Value, json};

use crate::{Run, options};

fn run(rules: &Value) -> Run {
    let mut options = options(Bits::B4);
    options.dynamic = crate::rules(rules);
    Run::with(&options)
}

/// Loads on both backends and compares.
fn agrees(run: &Run) {
    let plain = Model::load(&Checkpoint::open(&run.dir).unwrap(), Reference).unwrap();
    let ids = &random_tokens(6, 1, 30)[0];
    let gap = largest_difference(&run.load().logits(ids).unwrap(), &plain.logits(ids).unwrap());
    assert!(gap < 1e-4, "{gap}");
}

#[test]
fn a_rule_that_skips_leaves_the_module_dense() {
    let run = run(&json!({"-:.*\\.o_proj": {}}));
    let tensors = read_tensors(&run.file("model.safetensors"));
    let source = read_tensors(&fixture("arch/llama/model.safetensors"));
    for block in 0..2 {
        let name = format!("model.layers.{block}.self_attn.o_proj");
        let weight = format!("{name}.weight");
        assert!(tensors[&weight] == source[&weight]);
        assert!(!tensors.contains_key(&format!("{name}.qweight")));
    }
    assert_eq!(run.report.coverage.skipped, 2 * 64 * 64);
    let coverage = run.report.coverage;
    assert_eq!(coverage.quantized + coverage.skipped, coverage.expected);
    assert_eq!(run.report.layers.len(), 12);
    assert_eq!(
        read_json(&run.file("quantize_config.json"))["dynamic"],
        json!({"-:.*\\.o_proj": {}})
    );
    agrees(&run);
}

#[test]
fn a_rule_that_gives_eight_bits_holds_in_the_file_and_on_reload() {
    let run = run(&json!({".*\\.down_proj": {"bits": 8, "group_size": 16}}));
    let tensors = read_tensors(&run.file("model.safetensors"));
    assert_eq!(tensors["model.layers.0.mlp.down_proj.qweight"].shape, [96 * 8 / 32, 64]);
    assert_eq!(tensors["model.layers.0.mlp.down_proj.qzeros"].shape, [6, 64 * 8 / 32]);
    assert_eq!(tensors["model.layers.0.mlp.up_proj.qweight"].shape, [64 * 4 / 32, 96]);
    let found = inspect(&Checkpoint::open(&run.dir).unwrap()).unwrap();
    for layer in &found.layers {
        let wide = layer.name.ends_with("down_proj");
        let scheme = (layer.bits, layer.group_size);
        assert_eq!(scheme, if wide { (8, 16) } else { (4, 32) }, "{}", layer.name);
    }
    assert!(found.findings.is_empty(), "{:?}", found.findings);
    agrees(&run);
}

#[test]
fn a_stage_of_mixed_rules_still_shares_its_inputs() {
    let rules = json!({"-:.*layers\\.0.*k_proj": {}, ".*q_proj": {"bits": 2, "sym": false},
        ".*layers\\.1.*v_proj": {"bits": 3, "group_size": -1, "desc_act": true}});
    let run = run(&rules);
    assert_eq!(run.report.layers.len(), 13);
    let bits = |name: &str| {
        run.report.layers.iter().find(|l| l.name.ends_with(name)).map(|layer| layer.bits)
    };
    assert_eq!(bits("layers.0.self_attn.k_proj"), None);
    assert_eq!(bits("layers.1.self_attn.q_proj"), Some(2));
    assert_eq!(bits("layers.1.self_attn.v_proj"), Some(3));
    assert_eq!(bits("layers.1.self_attn.k_proj"), Some(4));
    agrees(&run);
}

#[test]
fn keys_that_mean_nothing_here_are_kept_and_said() {
    let json = json!({".*q_proj": {"bits": 8, "hessian": {"chunk_size": 1}}, ".*": {"mse": 0.0}});
    let run = run(&json);
    let said: Vec<&String> =
        run.report.notices.iter().filter(|n| n.starts_with("dynamic")).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("hessian"), "{said:?}");
    assert_eq!(read_json(&run.file("config.json"))["quantization_config"]["dynamic"], json);
}

#[test]
fn settings_that_only_the_solver_reads_change_codes_and_nothing_readers_look_at() {
    let plain = run(&json!({".*": {}}));
    for change in [
        json!({"mse": 2.4}),
        json!({"damp_percent": 0.2}),
        json!({"desc_act": true, "static_groups": true}),
        json!({"act_group_aware": true}),
    ] {
        let changed = run(&json!({".*q_proj": change}));
        let only = |run: &Run, which: fn(&str) -> bool| crate::packed(run, which);
        let q = |name: &str| name.contains("layers.0.self_attn.q_proj");
        assert!(only(&plain, q) != only(&changed, q), "{change}");
        // The stage's other linears share nothing that the rule changes.
        let k = |name: &str| name.contains("layers.0.self_attn.k_proj");
        assert!(only(&plain, k) == only(&changed, k), "{change}");
        let found = inspect(&Checkpoint::open(&changed.dir).unwrap()).unwrap();
        assert!(found.findings.is_empty(), "{change}: {:?}", found.findings);
        assert!(found.layers.iter().all(|l| l.bits == 4 && l.group_size == 32), "{change}");
        agrees(&changed);
    }
}

#[test]
fn the_file_says_desc_act_if_any_group_index_is_scattered() {
    for (static_groups, rule, said) in [
        (false, json!({}), true),
        (true, json!({}), false),
        // A reader that skips g_idx would compute nonsense in one linear.
        (true, json!({".*down_proj": {"static_groups": false}}), true),
        (false, json!({".*": {"static_groups": true}}), false),
    ] {
        let mut options = options(Bits::B4);
        options.config.act_order = ActOrder::DescAct;
        options.config.static_groups = static_groups;
        options.dynamic = crate::rules(&rule);
        let run = Run::with(&options);
        assert_eq!(read_json(&run.file("quantize_config.json"))["desc_act"], said, "{rule}");
        let found = inspect(&Checkpoint::open(&run.dir).unwrap()).unwrap();
        assert_eq!(found.layers.iter().any(|layer| layer.scattered_g_idx), said, "{rule}");
    }
}

#[test]
fn a_model_with_every_module_skipped_is_the_source() {
    let run = run(&json!({"-:model": {}}));
    assert_eq!(run.report.coverage.quantized, 0);
    assert!(run.report.layers.is_empty());
    let source = read_tensors(&fixture("arch/llama/model.safetensors"));
    assert!(read_tensors(&run.file("model.safetensors")) == source);
    agrees(&run);
}
