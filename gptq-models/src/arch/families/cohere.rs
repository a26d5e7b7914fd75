//! Command-R (`cohere`) and its successors (`cohere2`): attention and MLP side by side on one LayerNorm
//! without bias, RoPE of neighbours, scaled logits.

use gptq_core::Window;
use serde_json::json;

use super::{Family, MODEL};
use crate::{
    Error,
    arch::build::{Build, Heads, Norms},
    graph::{Add, Attention, Graph, HeadRope, NormSpec, Small},
};

pub(super) const COHERE: Family = Family {
    model_types: &["cohere"],
    defaults: || {
        json!({"layer_norm_eps": 1e-5, "rope_theta": 5e5, "logit_scale": 0.0625,
            "hidden_act": "silu", "tie_word_embeddings": true})
    },
    build: cohere,
    ..MODEL
};

pub(super) const COHERE2: Family = Family {
    model_types: &["cohere2"],
    defaults: || {
        json!({"layer_norm_eps": 1e-5, "logit_scale": 0.0625, "sliding_window": 4096,
            "sliding_window_pattern": 4, "hidden_act": "silu", "tie_word_embeddings": true})
    },
    build: cohere2,
    ..MODEL
};

const ROPE: HeadRope = HeadRope { table: 0, offset: 0, interleaved: true };

fn norms(m: &Build<'_>) -> Result<Norms, Error> {
    Ok(Norms { bias: false, ..Norms::layer(m.eps("layer_norm_eps")?) })
}

fn cohere(m: &Build<'_>) -> Result<Graph, Error> {
    let (norms, heads) = (norms(m)?, m.heads()?);
    // A row of weights for every head.
    let own = |name: &str, count: usize| {
        let columns = count * heads.dim;
        let matrix = Small::matrix(format!("{name}.weight"), count, heads.dim);
        let weight = Small { columns, ..matrix };
        NormSpec { weight: Some(weight), ..norms.over(name, heads.dim) }
    };
    let normed = m.flag("use_qk_norm")?;
    let attention = Attention {
        q_norm: normed.then(|| own("self_attn.q_norm", heads.heads)),
        k_norm: normed.then(|| own("self_attn.k_norm", heads.kv_heads)),
        rope: Some(ROPE),
        ..m.attention(heads)
    };
    graph(m, heads, |_| attention.clone())
}

fn cohere2(m: &Build<'_>) -> Result<Graph, Error> {
    let heads = Heads { dim: m.even_heads()?, ..m.heads()? };
    let pattern = m.count("sliding_window_pattern")?;
    let (window, slides) = (m.sliding()?, m.slides(|layer| (layer + 1) % pattern != 0)?);
    // Layers that see everything do not turn.
    graph(m, heads, |layer| Attention {
        rope: slides[layer].then_some(ROPE),
        window: if slides[layer] { window } else { Window::Full },
        ..m.attention(heads)
    })
}

fn graph(
    m: &Build<'_>,
    heads: Heads,
    attention: impl Fn(usize) -> Attention,
) -> Result<Graph, Error> {
    let (norms, gate) = (norms(m)?, m.gate("hidden_act")?);
    let (inner, bias) = (m.count("intermediate_size")?, m.flag("attention_bias")?);
    let blocks = m.blocks("layers", |b, layer| {
        let reads = b.normed(norms, "input_layernorm");
        b.attend(reads, "self_attn", bias, b.named(attention(layer)));
        b.beside_gate_up("mlp", inner, false, gate);
        b.output("self_attn.o_proj", bias, Add::default());
        b.down("mlp.down_proj", inner, false, Add::default());
        Ok(())
    })?;
    let mut graph = m.graph(blocks, Some(m.norm(norms, "norm")), vec![m.rope(heads.dim)?]);
    graph.head.scale = m.number("logit_scale")?.unwrap_or(1.0);
    Ok(graph)
}
