//! BLOOM: ALiBi, a norm after the embedding, q, k, v in one linear, head by head.

use gptq_core::Pointwise;
use serde_json::json;

use super::Family;
use crate::{
    Error,
    arch::build::{Build, Heads, Norms},
    graph::{Add, Alibi, Attention, Graph, Qkv, Reads},
};

pub(super) const BLOOM: Family = Family {
    model_types: &["bloom"],
    root: "transformer.",
    embed: "word_embeddings",
    heads: &["lm_head"],
    defaults: || json!({"layer_norm_epsilon": 1e-5, "tie_word_embeddings": true}),
    build,
};

fn build(m: &Build<'_>) -> Result<Graph, Error> {
    let (norms, heads) = (Norms::layer(m.eps("layer_norm_epsilon")?), m.config.heads);
    let heads = Heads { heads, kv_heads: heads, dim: m.even_heads()? };
    let attention = Attention { rope: None, alibi: true, ..m.attention(heads) };
    // Whether the norm of a branch's input is what the branch is added to.
    let normed_residual = m.flag("apply_residual_connection_post_layernorm")?;
    let reads = |norm| if normed_residual { Reads::NormInPlace(norm) } else { Reads::Norm(norm) };
    let blocks = m.blocks("h", |b, _| {
        let qkv = Qkv::by_head(heads.heads, heads.dim);
        let from = reads(b.norm(norms, "input_layernorm"));
        b.attend_fused(from, "self_attention.query_key_value", true, qkv, attention.clone());
        b.output("self_attention.dense", true, Add::default());
        let from = reads(b.norm(norms, "post_attention_layernorm"));
        let names = ["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"];
        b.mlp(from, names, 4 * m.hidden(), true, Pointwise::GeluTanh, Add::default());
        Ok(())
    })?;
    let mut graph = m.graph(blocks, Some(m.norm(norms, "ln_f")), Vec::new());
    graph.embed.norm = Some(m.norm(norms, "word_embeddings_layernorm"));
    graph.alibi = Some(Alibi { slopes: Alibi::bloom(heads.heads), bf16: false, scale: 1.0 });
    Ok(graph)
}
