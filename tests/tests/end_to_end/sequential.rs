//! Whether a stage sees the quantized stages before it in its block.

use gptq_core::{ActOrder, Bits};
use gptq_tests::read_json;
use serde_json::json;

use crate::{Run, options, packed, rules};

fn at_once(bits: Bits) -> Run {
    let mut options = options(bits);
    options.true_sequential = false;
    Run::with(&options)
}

#[test]
fn stages_solved_at_once_see_what_stages_quantized_alone_see() {
    let all = at_once(Bits::B3);
    for stage in ["q_proj|.*k_proj|.*v_proj", "o_proj", "gate_proj|.*up_proj", "down_proj"] {
        // Everything before this stage stays dense, so its inputs are those of the original block.
        let mut alone = options(Bits::B3);
        let others = format!("-:(?!model\\.layers\\.0\\.(?:.*{stage}))");
        alone.dynamic = rules(&json!({others: {}}));
        let alone = Run::with(&alone);
        let names: Vec<&str> = alone.report.layers.iter().map(|l| l.name.as_str()).collect();
        assert!(!names.is_empty() && names.iter().all(|n| n.contains("layers.0.")), "{names:?}");
        let of_stage = |name: &str| names.iter().any(|n| name.starts_with(n));
        assert!(packed(&all, of_stage) == packed(&alone, of_stage), "{stage}");
    }
}

#[test]
fn later_stages_and_blocks_see_quantized_ones_as_the_run_is_told_to() {
    let (one_by_one, all) = (Run::with(&options(Bits::B2)), at_once(Bits::B2));
    let same = |part: &str| {
        let of_part = |name: &str| name.contains(part);
        packed(&one_by_one, of_part) == packed(&all, of_part)
    };
    for part in ["q_proj", "k_proj", "v_proj"] {
        assert!(same(&format!("layers.0.self_attn.{part}")), "nothing stands before {part}");
    }
    assert!(!same("layers.0.self_attn.o_proj"));
    assert!(!same("layers.1.self_attn.q_proj"));
    // Both beat blind rounding everywhere, and each linear was solved with all tokens.
    for layer in &all.report.layers {
        assert!(layer.loss.unwrap() < layer.rtn_loss.unwrap(), "{}", layer.name);
        assert_eq!(layer.tokens, 12 * 48, "{}", layer.name);
    }
}

#[test]
fn the_config_and_the_report_say_which() {
    for sequential in [true, false] {
        let mut options = options(Bits::B4);
        options.config.act_order = ActOrder::GroupAware;
        options.true_sequential = sequential;
        let run = Run::with(&options);
        let config = read_json(&run.file("quantize_config.json"));
        assert_eq!(config["true_sequential"], sequential);
        assert_eq!(config["meta"]["true_sequential"], sequential);
        let report = read_json(&run.file("gptq_report.json"));
        let settings = &report["settings"]["quantization_config"];
        assert_eq!(settings["true_sequential"], sequential);
    }
}
