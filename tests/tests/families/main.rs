//! Every family against the public reference implementation: 44 small models, some families in
//! several variants, whose weights are made by formula.
//!
//! `fixtures/graphs.json` holds their configs, the names and shapes of their tensors, and what
//! transformers 5.23.0 computes from them in float32 with eager attention. Every law below has one
//! test per model, so that a failure names the model it is about.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failing test panics")]

mod cache;
mod compressed;
mod filler;
mod golden;
#[path = "../../../gptq-kernels/tests/cuda/gpu.rs"]
mod gpu;
mod logits;
mod mixtures;
mod quantized;
mod spellings;
mod unknown;

/// One test per model of the fixture, named as the model is with `-` read as `_`.
macro_rules! each_model {
    ($law:ident: $check:path) => {
        each_model! {
            $law: $check;
            bloom, bloom_oddheads, cohere, deepseek_v2_group, deepseek_v3, deepseek_v3_yarn_eps,
            falcon_11b_1ln, falcon_40b_like, falcon_7b_like, gemma, gemma2, gemma3_text, glm4, gpt2,
            gpt_neox, gpt_oss, gptj, granite, granitemoe, llama, llama3_rope, llama4_text,
            llama_linear_rope, llama_yarn, mistral, mixtral, mpt, olmo2, olmo3, olmo3_yarn,
            opt_125m_like, opt_350m_like, phi, phi3, phi_qk, qwen2, qwen2_moe, qwen3, qwen3_moe,
            seed_oss, smollm3, smollm3_nope_slide, stablelm, starcoder2
        }
    };
    ($law:ident: $check:path; $($model:ident),+) => {
        mod $law {
            /// What is tested, to be held against what the fixture holds.
            pub(super) const MODELS: &[&str] = &[$(stringify!($model)),+];
            $(
                #[test]
                fn $model() {
                    $check(&$crate::golden::Golden::of(stringify!($model)));
                }
            )+
        }
    };
}

each_model! { logits_agree: crate::logits::agree }
each_model! { the_cache_changes_nothing: crate::cache::changes_nothing }
each_model! { at_eight_bits: crate::quantized::eight_bits }
each_model! { at_four_bits: crate::quantized::four_bits }

#[test]
fn no_model_of_the_fixture_is_left_out() {
    let tested = [
        logits_agree::MODELS,
        the_cache_changes_nothing::MODELS,
        at_eight_bits::MODELS,
        at_four_bits::MODELS,
    ];
    for models in tested {
        assert_eq!(models, golden::names());
    }
}

/// What the emulator says it is, where there is no GPU.
const CAPABILITY: &str = "9.0";
