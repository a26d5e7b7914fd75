//! Phi 1, 1.5 and 2: attention and MLP side by side on one LayerNorm, partial RoPE, biases everywhere.

use serde_json::json;

use super::{Family, MODEL};
use crate::{
    Error,
    arch::build::{Build, Norms},
    graph::{Add, Attention, Graph},
};

pub(super) const PHI: Family = Family {
    model_types: &["phi"],
    defaults: || json!({"layer_norm_eps": 1e-5, "hidden_act": "gelu_new", "partial_rotary_factor": 0.5}),
    build,
    ..MODEL
};

fn build(m: &Build<'_>) -> Result<Graph, Error> {
    let (norms, heads) = (Norms::layer(m.eps("layer_norm_eps")?), m.heads()?);
    let head_norm = |name: &str| norms.over(name, heads.dim);
    let normed = m.flag("qk_layernorm")?;
    let attention = Attention {
        q_norm: normed.then(|| head_norm("self_attn.q_layernorm")),
        k_norm: normed.then(|| head_norm("self_attn.k_layernorm")),
        ..m.attention(heads)
    };
    let (f, inner) = (m.activation("hidden_act")?, m.count("intermediate_size")?);
    let blocks = m.blocks("layers", |b, _| {
        let reads = b.normed(norms, "input_layernorm");
        b.attend(reads, "self_attn", true, b.named(attention.clone()));
        b.beside_up("mlp.fc1", inner, true, f);
        b.output("self_attn.dense", true, Add::default());
        b.down("mlp.fc2", inner, true, Add::default());
        Ok(())
    })?;
    let norm = m.norm(norms, "final_layernorm");
    let mut graph = m.graph(blocks, Some(norm), vec![m.rope(heads.dim)?]);
    graph.head.place.bias = true;
    Ok(graph)
}
