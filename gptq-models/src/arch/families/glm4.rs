//! GLM 4 (0414): norms on both sides of each branch, gate and up in one linear, half of each head turned
//! in neighbours.

use serde_json::json;

use super::{Family, MODEL};
use crate::{
    Error,
    arch::build::{Build, Norms},
    graph::{Add, Attention, Graph, HeadRope},
};

pub(super) const GLM4: Family = Family {
    model_types: &["glm4"],
    defaults: || {
        json!({"num_key_value_heads": 2, "head_dim": 128, "rms_norm_eps": 1.5625e-7,
            "attention_bias": true, "partial_rotary_factor": 0.5, "hidden_act": "silu"})
    },
    build,
    ..MODEL
};

fn build(m: &Build<'_>) -> Result<Graph, Error> {
    let (norms, heads) = (Norms::rms(m.eps("rms_norm_eps")?), m.heads()?);
    let rope = HeadRope { table: 0, offset: 0, interleaved: true };
    let attention = Attention { rope: Some(rope), ..m.attention(heads) };
    let (gate, inner) = (m.gate("hidden_act")?, m.count("intermediate_size")?);
    let bias = m.flag("attention_bias")?;
    let blocks = m.blocks("layers", |b, _| {
        let after = |norm: &str| Add { norm: Some(b.norm(norms, norm)), ..Add::default() };
        let (attended, fed) = (after("post_self_attn_layernorm"), after("post_mlp_layernorm"));
        b.attend(b.normed(norms, "input_layernorm"), "self_attn", bias, attention.clone());
        b.output("self_attn.o_proj", false, attended);
        let reads = b.normed(norms, "post_attention_layernorm");
        b.fused_gated_mlp(reads, "mlp", inner, gate, fed);
        Ok(())
    })?;
    Ok(m.graph(blocks, Some(m.norm(norms, "norm")), vec![m.rope(heads.dim)?]))
}
