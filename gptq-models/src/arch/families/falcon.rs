//! Falcon in its layouts: one key head, groups of them, or one for each; attention and MLP side by
//! side on one norm or two, or one after the other; RoPE or ALiBi.

use serde_json::json;

use super::Family;
use crate::{
    Error,
    arch::build::{Build, Heads, Norms},
    graph::{Add, Alibi, Attention, Graph, Qkv, Reads, Then},
};

pub(super) const FALCON: Family = Family {
    model_types: &["falcon", "RefinedWeb", "RefinedWebModel"],
    root: "transformer.",
    embed: "word_embeddings",
    heads: &["lm_head"],
    defaults: || {
        json!({"layer_norm_epsilon": 1e-5, "activation": "gelu", "multi_query": true,
            "parallel_attn": true, "tie_word_embeddings": true})
    },
    build,
};

fn build(m: &Build<'_>) -> Result<Graph, Error> {
    let norms = Norms::layer(m.eps("layer_norm_epsilon")?);
    let (grouped, multi_query) = (m.flag("new_decoder_architecture")?, m.flag("multi_query")?);
    let (heads, dim) = (m.config.heads, m.even_heads()?);
    let kv_heads = match (grouped, multi_query) {
        (true, _) => m.keys.optional_count("num_kv_heads")?.unwrap_or(heads),
        (false, true) => 1,
        (false, false) => heads,
    };
    if heads % kv_heads != 0 {
        let message = format!("is {kv_heads}, which does not divide num_attention_heads {heads}");
        return Err(m.keys.error("num_kv_heads", message));
    }
    let alibi = m.flag("alibi")?;
    let attention = m.attention(Heads { heads, kv_heads, dim });
    let rope = attention.rope.filter(|_| !alibi);
    let attention = Attention { alibi, rope, ..attention };
    let parallel = grouped || m.flag("parallel_attn")?;
    let two_norms = grouped && m.keys.optional_count("num_ln_in_parallel_attn")?.unwrap_or(2) == 2;
    let (bias, f) = (m.flag("bias")?, m.activation("activation")?);
    let inner = m.keys.optional_count("ffn_hidden_size")?.unwrap_or(4 * m.hidden());
    let blocks = m.blocks("h", |b, _| {
        let first = if two_norms { "ln_attn" } else { "input_layernorm" };
        let qkv = Qkv::by_group(heads, kv_heads, dim);
        let name = "self_attention.query_key_value";
        b.attend_fused(b.normed(norms, first), name, bias, qkv, attention.clone());
        let up = |b: &mut crate::arch::block::BlockBuilder<'_>, reads: Option<Reads>| {
            let linear = b.linear("mlp.dense_h_to_4h", inner, m.hidden(), bias);
            match reads {
                Some(reads) => b.stage(reads, vec![linear], Then::Apply(f)),
                None => b.beside(vec![linear], Then::Apply(f)),
            }
        };
        match (parallel, two_norms) {
            (true, true) => {
                let reads = b.normed(norms, "ln_mlp");
                up(b, Some(reads));
                b.output("self_attention.dense", bias, Add::default());
            }
            (true, false) => {
                up(b, None);
                b.output("self_attention.dense", bias, Add::default());
            }
            (false, _) => {
                b.output("self_attention.dense", bias, Add::default());
                let reads = b.normed(norms, "post_attention_layernorm");
                up(b, Some(reads));
            }
        }
        b.down("mlp.dense_4h_to_h", inner, bias, Add::default());
        Ok(())
    })?;
    let ropes = if alibi { Vec::new() } else { vec![m.rope(dim)?] };
    let mut graph = m.graph(blocks, Some(m.norm(norms, "ln_f")), ropes);
    // Scores and biases are scaled together.
    graph.alibi = alibi.then(|| Alibi {
        slopes: Alibi::bloom(heads),
        bf16: true,
        scale: 1.0 / (dim as f32).sqrt(),
    });
    Ok(graph)
}
