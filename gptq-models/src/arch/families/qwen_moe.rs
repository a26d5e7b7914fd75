//! Qwen 2 and 3 with mixtures of experts, in all layers or some.

use gptq_core::Window;
use serde_json::json;

use super::{Family, MODEL, qwen::head_norms};
use crate::{
    Error,
    arch::{
        block::ExpertNames,
        build::{Build, Norms},
    },
    graph::{Add, Attention, Graph, Router, Small},
};

pub(super) const QWEN2_MOE: Family = Family {
    model_types: &["qwen2_moe"],
    defaults: || {
        json!({"num_key_value_heads": 16, "rms_norm_eps": 1e-6, "qkv_bias": true,
            "num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632, "decoder_sparse_step": 1,
            "sliding_window": 4096, "max_window_layers": 28, "hidden_act": "silu"})
    },
    build: qwen2_moe,
    ..MODEL
};

pub(super) const QWEN3_MOE: Family = Family {
    model_types: &["qwen3_moe", "qwen3_vl_moe_text"],
    defaults: || {
        json!({"num_key_value_heads": 4, "rms_norm_eps": 1e-6, "num_experts": 128,
            "num_experts_per_tok": 8, "moe_intermediate_size": 768, "decoder_sparse_step": 1,
            "sliding_window": 4096, "hidden_act": "silu"})
    },
    build: qwen3_moe,
    ..MODEL
};

fn qwen2_moe(m: &Build<'_>) -> Result<Graph, Error> {
    let bias = m.flag("qkv_bias")?;
    let last = m.count("max_window_layers")?;
    let sliding = m.slides(|layer| layer % 2 == 0 && layer < last)?;
    let shared = m.count("shared_expert_intermediate_size")?;
    let attention = m.attention(m.heads()?);
    graph(m, [bias, false], Some(shared), |layer, window| Attention {
        window: if sliding[layer] { window } else { Window::Full },
        ..attention.clone()
    })
}

fn qwen3_moe(m: &Build<'_>) -> Result<Graph, Error> {
    let bias = m.flag("attention_bias")?;
    let norms = Norms::rms(m.eps("rms_norm_eps")?);
    let attention = head_norms(norms, m.attention(m.heads()?));
    graph(m, [bias, bias], None, |_, window| Attention { window, ..attention.clone() })
}

fn graph(
    m: &Build<'_>,
    [qkv_bias, output_bias]: [bool; 2],
    shared: Option<usize>,
    attention: impl Fn(usize, Window) -> Attention,
) -> Result<Graph, Error> {
    let (norms, gate) = (Norms::rms(m.eps("rms_norm_eps")?), m.gate("hidden_act")?);
    let window = m.sliding_if_used()?;
    let (experts, top) = (m.experts()?, m.count("num_experts_per_tok")?);
    let step = m.count("decoder_sparse_step")?;
    let dense = m.keys.optional_numbers("mlp_only_layers")?.unwrap_or_default();
    let normalize = m.flag("norm_topk_prob")?;
    let blocks = m.blocks("layers", |b, layer| {
        let reads = b.normed(norms, "input_layernorm");
        b.attend(reads, "self_attn", qkv_bias, b.named(attention(layer, window)));
        b.output("self_attn.o_proj", output_bias, Add::default());
        let reads = b.normed(norms, "post_attention_layernorm");
        if dense.contains(&(layer as f64)) || (layer + 1) % step != 0 {
            let inner = m.count("intermediate_size")?;
            b.gated_mlp(reads, "mlp", inner, false, gate, Add::default());
            return Ok(());
        }
        let names = ExpertNames::new("mlp.experts", experts, m.count("moe_intermediate_size")?);
        let shared_gate =
            shared.map(|_| Small::matrix(b.full("mlp.shared_expert_gate.weight"), 1, m.hidden()));
        let router = Router { normalize, shared_gate, ..b.router("mlp.gate", experts, top, gate) };
        let shared = shared.map(|inner| ("mlp.shared_expert", inner));
        b.experts(reads, &names, router, shared, Add::default());
        Ok(())
    })?;
    let rope = m.rope(attention(0, window).head_dim)?;
    Ok(m.graph(blocks, Some(m.norm(norms, "norm")), vec![rope]))
}
