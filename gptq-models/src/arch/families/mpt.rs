//! MPT: ALiBi with its own slopes, LayerNorms without biases, no biases at all.

use gptq_core::Pointwise;
use serde_json::json;

use super::Family;
use crate::{
    Error,
    arch::build::{Build, Heads, Norms},
    graph::{Add, Alibi, Attention, Graph, Qkv},
};

pub(super) const MPT: Family = Family {
    model_types: &["mpt"],
    root: "transformer.",
    embed: "wte",
    heads: &["lm_head"],
    defaults: || {
        json!({"layer_norm_epsilon": 1e-5, "no_bias": true, "expansion_ratio": 4,
            "tie_word_embeddings": true})
    },
    build,
};

fn build(m: &Build<'_>) -> Result<Graph, Error> {
    m.refuse("no_bias", false)?;
    let norms = Norms { bias: false, ..Norms::layer(m.eps("layer_norm_epsilon")?) };
    let heads = m.config.heads;
    let heads = Heads { heads, kv_heads: heads, dim: m.even_heads()? };
    let mut attention = Attention { rope: None, alibi: true, ..m.attention(heads) };
    if let Some(keys) = m.keys.nested("attn_config", "attn_config.") {
        for (key, supported) in [("alibi", true), ("qk_ln", false), ("prefix_lm", false)] {
            if keys.optional_flag(key)?.is_some_and(|flag| flag != supported) {
                return Err(keys.error(key, format!("is {}, which is not supported", !supported)));
            }
        }
        attention.clip = keys.optional_number("clip_qkv")?.map(|clip| clip as f32);
        attention.scale =
            keys.optional_number("softmax_scale")?.map_or(attention.scale, |scale| scale as f32);
    }
    let inner = m.count("expansion_ratio")?.saturating_mul(m.hidden());
    let blocks = m.blocks("blocks", |b, _| {
        let qkv = Qkv::by_kind(heads.heads, heads.heads, heads.dim);
        b.attend_fused(b.normed(norms, "norm_1"), "attn.Wqkv", false, qkv, attention.clone());
        b.output("attn.out_proj", false, Add::default());
        let names = ["ffn.up_proj", "ffn.down_proj"];
        b.mlp(b.normed(norms, "norm_2"), names, inner, false, Pointwise::Gelu, Add::default());
        Ok(())
    })?;
    let mut graph = m.graph(blocks, Some(m.norm(norms, "norm_f")), Vec::new());
    graph.alibi = Some(Alibi { slopes: Alibi::mpt(heads.heads), bf16: false, scale: 1.0 });
    Ok(graph)
}
