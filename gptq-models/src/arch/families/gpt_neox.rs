//! GPT-NeoX and Pythia: fused q, k, v by head, partial RoPE, attention and MLP side by side on a norm
//! each.

use serde_json::json;

use super::Family;
use crate::{
    Error,
    arch::build::{Build, Norms},
    graph::{Add, Graph, Qkv, Then},
    rope::Rope,
};

pub(super) const GPT_NEOX: Family = Family {
    model_types: &["gpt_neox"],
    root: "gpt_neox.",
    embed: "embed_in",
    heads: &["embed_out", "lm_head"],
    defaults: || {
        json!({"layer_norm_eps": 1e-5, "rotary_pct": 0.25, "rotary_emb_base": 10000,
            "use_parallel_residual": true, "attention_bias": true, "hidden_act": "gelu"})
    },
    build,
};

fn build(m: &Build<'_>) -> Result<Graph, Error> {
    let (norms, heads) = (Norms::layer(m.eps("layer_norm_eps")?), m.heads()?);
    let (f, inner) = (m.activation("hidden_act")?, m.count("intermediate_size")?);
    let (bias, parallel) = (m.flag("attention_bias")?, m.flag("use_parallel_residual")?);
    let blocks = m.blocks("layers", |b, _| {
        let qkv = Qkv::by_head(heads.heads, heads.dim);
        let reads = b.normed(norms, "input_layernorm");
        b.attend_fused(reads, "attention.query_key_value", bias, qkv, m.attention(heads));
        if !parallel {
            b.output("attention.dense", bias, Add::default());
        }
        // Side by side, the MLP reads the residual before attention joins it.
        let up = b.linear("mlp.dense_h_to_4h", inner, m.hidden(), true);
        b.stage(b.normed(norms, "post_attention_layernorm"), vec![up], Then::Apply(f));
        if parallel {
            b.output("attention.dense", bias, Add::default());
        }
        b.down("mlp.dense_4h_to_h", inner, true, Add::default());
        Ok(())
    })?;
    let longest = m.config.max_position_embeddings;
    let rope = Rope::read_as(m.keys, heads.dim, longest, ["rotary_emb_base", "rotary_pct"])?;
    Ok(m.graph(blocks, Some(m.norm(norms, "final_layer_norm")), vec![rope]))
}
