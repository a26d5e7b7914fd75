//! OPT: learned positions from row 2 on, norms before branches or after them, embeddings narrower than
//! the blocks in one size.

use serde_json::json;

use super::Family;
use crate::{
    Error,
    arch::build::{Build, Heads, Norms},
    graph::{Add, Attention, Graph, Reads},
};

pub(super) const OPT: Family = Family {
    model_types: &["opt"],
    root: "model.decoder.",
    embed: "embed_tokens",
    heads: &["lm_head"],
    defaults: || {
        json!({"do_layer_norm_before": true, "enable_bias": true, "activation_function": "relu",
            "layer_norm_elementwise_affine": true, "tie_word_embeddings": true})
    },
    build,
};

fn build(m: &Build<'_>) -> Result<Graph, Error> {
    m.refuse("layer_norm_elementwise_affine", false)?;
    let (norms, heads) = (Norms::layer(1e-5), m.config.heads);
    let heads = Heads { heads, kv_heads: heads, dim: m.even_heads()? };
    let attention = Attention { rope: None, ..m.attention(heads) };
    let (bias, before) = (m.flag("enable_bias")?, m.flag("do_layer_norm_before")?);
    let (f, inner) = (m.activation("activation_function")?, m.count("ffn_dim")?);
    let blocks = m.blocks("layers", |b, _| {
        let around = |norm: &str| {
            let norm = b.norm(norms, norm);
            match before {
                true => (Reads::Norm(norm), Add::default()),
                false => (Reads::Residual, Add { then_norm: Some(norm), ..Add::default() }),
            }
        };
        let (attends, attended) = around("self_attn_layer_norm");
        let (feeds, fed) = around("final_layer_norm");
        b.attend(attends, "self_attn", bias, attention.clone());
        b.output("self_attn.out_proj", bias, attended);
        b.mlp(feeds, ["fc1", "fc2"], inner, bias, f, fed);
        Ok(())
    })?;
    let last = before && !m.flag("_remove_final_layer_norm")?;
    let norm = last.then(|| m.norm(norms, "final_layer_norm"));
    let mut graph = m.graph(blocks, norm, Vec::new());
    let (hidden, vocab) = (m.hidden(), m.config.vocab_size);
    let rows = m.config.max_position_embeddings + 2;
    graph.embed.positions = Some((m.matrix("embed_positions", rows, hidden), 2));
    let narrow = m.keys.optional_count("word_embed_proj_dim")?.unwrap_or(hidden);
    if narrow != hidden {
        graph.embed.table = m.matrix(m.embed, vocab, narrow);
        graph.embed.project_in = Some(m.matrix("project_in", hidden, narrow));
        graph.project_out = Some(m.matrix("project_out", narrow, hidden));
        graph.head.place.in_features = narrow;
    }
    Ok(graph)
}
