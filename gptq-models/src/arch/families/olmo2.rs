//! OLMo 2: norms after the branches, and over all queries and all keys.

use serde_json::json;

use super::{Family, MODEL};
use crate::{
    Error,
    arch::build::{Build, Norms},
    graph::{Add, Attention, Graph, Reads},
};

pub(super) const OLMO2: Family = Family {
    model_types: &["olmo2"],
    defaults: || json!({"rms_norm_eps": 1e-5, "hidden_act": "silu"}),
    build,
    ..MODEL
};

fn build(m: &Build<'_>) -> Result<Graph, Error> {
    graph(m, |_, attention| attention)
}

/// The model, with one plain RoPE; each layer may change its attention.
pub(super) fn graph(
    m: &Build<'_>,
    attention: impl Fn(usize, Attention) -> Attention,
) -> Result<Graph, Error> {
    let (norms, heads) = (Norms::rms(m.eps("rms_norm_eps")?), m.heads()?);
    let plain = Attention {
        q_norm: Some(norms.over("self_attn.q_norm", heads.heads * heads.dim)),
        k_norm: Some(norms.over("self_attn.k_norm", heads.kv_heads * heads.dim)),
        ..m.attention(heads)
    };
    let (gate, inner) = (m.gate("hidden_act")?, m.count("intermediate_size")?);
    let bias = m.flag("attention_bias")?;
    let blocks = m.blocks("layers", |b, layer| {
        let after = |norm: &str| Add { norm: Some(b.norm(norms, norm)), ..Add::default() };
        let (attended, fed) =
            (after("post_attention_layernorm"), after("post_feedforward_layernorm"));
        let attention = b.named(attention(layer, plain.clone()));
        b.attend(Reads::Residual, "self_attn", bias, attention);
        b.output("self_attn.o_proj", bias, attended);
        b.gated_mlp(Reads::Residual, "mlp", inner, false, gate, fed);
        Ok(())
    })?;
    Ok(m.graph(blocks, Some(m.norm(norms, "norm")), vec![m.rope(heads.dim)?]))
}
