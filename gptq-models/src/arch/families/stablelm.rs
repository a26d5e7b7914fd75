//! StableLM: LLaMA with LayerNorms and partial RoPE; in its larger size attention and MLP side by side,
//! and a norm for every head.

use serde_json::json;

use super::{Family, MODEL};
use crate::{
    Error,
    arch::build::{Build, Heads, Norms},
    graph::{Add, Attention, Graph, NormSpec, Small},
};

pub(super) const STABLELM: Family = Family {
    model_types: &["stablelm"],
    defaults: || {
        json!({"num_key_value_heads": 32, "layer_norm_eps": 1e-5, "hidden_act": "silu",
            "partial_rotary_factor": 0.25})
    },
    build,
    ..MODEL
};

fn build(m: &Build<'_>) -> Result<Graph, Error> {
    let norms = Norms::layer(m.eps("layer_norm_eps")?);
    let heads = Heads { dim: m.even_heads()?, ..m.heads()? };
    let own = |name: &str, count: usize| {
        let names = (0..count).map(|j| format!("self_attn.{name}.norms.{j}.weight")).collect();
        let columns = count * heads.dim;
        let weight = Small { names, shape: vec![heads.dim], columns, plus_one: false };
        NormSpec { bias: None, weight: Some(weight), ..norms.over(name, heads.dim) }
    };
    let normed = m.flag("qk_layernorm")?;
    let attention = Attention {
        q_norm: normed.then(|| own("q_layernorm", heads.heads)),
        k_norm: normed.then(|| own("k_layernorm", heads.kv_heads)),
        ..m.attention(heads)
    };
    let (gate, inner) = (m.gate("hidden_act")?, m.count("intermediate_size")?);
    let (bias, parallel) = (m.flag("use_qkv_bias")?, m.flag("use_parallel_residual")?);
    let blocks = m.blocks("layers", |b, _| {
        let reads = b.normed(norms, "input_layernorm");
        b.attend(reads, "self_attn", bias, b.named(attention.clone()));
        if parallel {
            b.beside_gate_up("mlp", inner, false, gate);
            b.output("self_attn.o_proj", false, Add::default());
            b.down("mlp.down_proj", inner, false, Add::default());
        } else {
            b.output("self_attn.o_proj", false, Add::default());
            let reads = b.normed(norms, "post_attention_layernorm");
            b.gated_mlp(reads, "mlp", inner, false, gate, Add::default());
        }
        Ok(())
    })?;
    Ok(m.graph(blocks, Some(m.norm(norms, "norm")), vec![m.rope(heads.dim)?]))
}
