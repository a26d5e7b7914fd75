//! GPT-2: learned positions, linears stored in × out.

use serde_json::json;

use super::Family;
use crate::{
    Error,
    arch::build::{Build, Heads, Norms},
    graph::{Add, Attention, Graph, Qkv, Stored},
};

pub(super) const GPT2: Family = Family {
    model_types: &["gpt2"],
    root: "transformer.",
    embed: "wte",
    heads: &["lm_head"],
    defaults: || {
        json!({"layer_norm_epsilon": 1e-5, "activation_function": "gelu_new",
            "scale_attn_weights": true, "tie_word_embeddings": true})
    },
    build,
};

fn build(m: &Build<'_>) -> Result<Graph, Error> {
    let (norms, heads) = (Norms::layer(m.eps("layer_norm_epsilon")?), m.config.heads);
    let heads = Heads { heads, kv_heads: heads, dim: m.even_heads()? };
    let f = m.activation("activation_function")?;
    let inner = m.keys.optional_count("n_inner")?.unwrap_or(4 * m.hidden());
    let (scaled, by_layer) =
        (m.flag("scale_attn_weights")?, m.flag("scale_attn_by_inverse_layer_idx")?);
    let mut blocks = m.blocks("h", |b, layer| {
        let attention = m.attention(heads);
        let root = if scaled { attention.scale } else { 1.0 };
        let scale = if by_layer { root / (layer + 1) as f32 } else { root };
        let attention = Attention { scale, rope: None, ..attention };
        let qkv = Qkv::by_kind(heads.heads, heads.heads, heads.dim);
        b.attend_fused(b.normed(norms, "ln_1"), "attn.c_attn", true, qkv, attention);
        b.output("attn.c_proj", true, Add::default());
        let names = ["mlp.c_fc", "mlp.c_proj"];
        b.mlp(b.normed(norms, "ln_2"), names, inner, true, f, Add::default());
        Ok(())
    })?;
    for linear in blocks.iter_mut().flat_map(|b| &mut b.stages).flat_map(|s| &mut s.linears) {
        linear.stored = Stored::Transposed;
    }
    let mut graph = m.graph(blocks, Some(m.norm(norms, "ln_f")), Vec::new());
    let positions = m.matrix("wpe", m.config.max_position_embeddings, m.hidden());
    graph.embed.positions = Some((positions, 0));
    Ok(graph)
}
