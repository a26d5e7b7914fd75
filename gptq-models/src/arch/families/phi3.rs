//! Phi 3 and 4: LLaMA with q, k, v in one linear and gate, up in another.

use serde_json::json;

use super::{Family, MODEL};
use crate::{
    Error,
    arch::build::{Build, Norms},
    graph::{Add, Attention, Graph, Qkv},
};

pub(super) const PHI3: Family = Family {
    model_types: &["phi3"],
    defaults: || json!({"rms_norm_eps": 1e-5, "hidden_act": "silu"}),
    build,
    ..MODEL
};

fn build(m: &Build<'_>) -> Result<Graph, Error> {
    let (norms, heads) = (Norms::rms(m.eps("rms_norm_eps")?), m.heads()?);
    let attention = Attention { window: m.sliding()?, ..m.attention(heads) };
    let (gate, inner) = (m.gate("hidden_act")?, m.count("intermediate_size")?);
    let blocks = m.blocks("layers", |b, _| {
        let qkv = Qkv::by_kind(heads.heads, heads.kv_heads, heads.dim);
        let reads = b.normed(norms, "input_layernorm");
        b.attend_fused(reads, "self_attn.qkv_proj", false, qkv, attention.clone());
        b.output("self_attn.o_proj", false, Add::default());
        let reads = b.normed(norms, "post_attention_layernorm");
        b.fused_gated_mlp(reads, "mlp", inner, gate, Add::default());
        Ok(())
    })?;
    Ok(m.graph(blocks, Some(m.norm(norms, "norm")), vec![m.rope(heads.dim)?]))
}
