//! GPTAQ and FOEM over a whole model.

use gptq_core::{Bits, FallbackStrategy};
use gptq_models::{FallbackPolicy, FallbackThreshold, QuantizeOptions};
use gptq_tests::read_json;
use rayon::ThreadPoolBuilder;
use serde_json::json;

use crate::{Run, options, packed};

fn with_alpha(alpha: f32) -> QuantizeOptions {
    let mut options = options(Bits::B3);
    options.config.gptaq_alpha = alpha;
    options
}

#[test]
fn it_only_matters_where_something_before_was_quantized() {
    let (plain, gptaq) = (Run::with(&with_alpha(0.0)), Run::with(&with_alpha(0.25)));
    let same = |part: &str| {
        let of_part = |name: &str| name.contains(part);
        packed(&plain, of_part) == packed(&gptaq, of_part)
    };
    for part in ["q_proj", "k_proj", "v_proj"] {
        assert!(
            same(&format!("layers.0.self_attn.{part}")),
            "{part} reads what the original reads"
        );
    }
    for part in ["layers.0.self_attn.o_proj", "layers.0.mlp.down_proj", "layers.1.self_attn.q_proj"]
    {
        assert!(!same(part), "{part}");
    }
    let config = read_json(&gptaq.file("quantize_config.json"));
    assert_eq!(config["meta"]["gptaq"], json!({"alpha": 0.25}));
    assert!(gptaq.report.notices.iter().any(|n| n.contains("GPTAQ") && n.contains("twice")));
}

#[test]
fn threads_do_not_change_a_byte() {
    for sequential in [true, false] {
        let mut options = with_alpha(0.25);
        options.config.foem_beta = 0.1;
        options.true_sequential = sequential;
        let bytes = |threads: usize| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| std::fs::read(Run::with(&options).file("model.safetensors")).unwrap())
        };
        assert!(bytes(1) == bytes(3), "sequential {sequential}");
    }
}

#[test]
fn solved_at_once_a_first_block_reads_what_the_original_reads() {
    let at_once = |alpha: f32| {
        let options = QuantizeOptions { true_sequential: false, ..with_alpha(alpha) };
        packed(&Run::with(&options), |name| name.contains("layers.0."))
    };
    assert!(at_once(0.0) == at_once(0.25));
}

#[test]
fn foem_needs_no_second_model() {
    let mut options = options(Bits::B3);
    options.config.foem_beta = 0.2;
    let (plain, foem) = (Run::with(&with_alpha(0.0)), Run::with(&options));
    assert!(packed(&plain, |_| true) != packed(&foem, |_| true));
    assert!(foem.report.notices.iter().all(|n| !n.contains("GPTAQ")));
    let config = read_json(&foem.file("quantize_config.json"));
    assert_eq!(config["meta"]["foem"], json!({"alpha": 0.0, "beta": 0.2}));
}

#[test]
fn the_head_and_fallbacks_go_along() {
    let mut options = QuantizeOptions { lm_head: true, ..with_alpha(0.25) };
    let solved = Run::with(&options);
    assert!(solved.report.layers.last().unwrap().loss.is_some());
    options.fallback = Some(FallbackPolicy {
        strategy: FallbackStrategy::Rtn,
        threshold: FallbackThreshold::Tokens(1 << 40),
    });
    assert_eq!(Run::with(&options).report.fallbacks().count(), 15);
}
