//! Seed-OSS: LLaMA with biases on q, k and v, and heads wider than the residual.

use serde_json::json;

use super::{Family, MODEL, llama::Llama};
use crate::{Error, arch::build::Build, graph::Graph};

pub(super) const SEED_OSS: Family = Family {
    model_types: &["seed_oss"],
    defaults: || {
        json!({"num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-6,
            "attention_bias": true, "hidden_act": "silu"})
    },
    build,
    ..MODEL
};

fn build(m: &Build<'_>) -> Result<Graph, Error> {
    let block = Llama {
        qkv_bias: m.flag("attention_bias")?,
        output_bias: m.flag("attention_out_bias")?,
        ..Llama::read(m)?
    };
    block.graph(m, |_, attention| attention)
}
