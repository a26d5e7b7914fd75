//! Qwen 2, 2.5 and 3: LLaMA with biases on q, k and v, or with norms on the heads of q and k.

use gptq_core::Window;
use serde_json::json;

use super::{Family, MODEL, llama::Llama};
use crate::{
    Error,
    arch::build::{Build, Norms},
    graph::{Attention, Graph, NormSpec},
};

pub(super) const QWEN2: Family = Family {
    model_types: &["qwen2"],
    defaults: || {
        json!({"hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-6,
            "sliding_window": 4096, "max_window_layers": 28, "hidden_act": "silu"})
    },
    build: qwen2,
    ..MODEL
};

/// The text models of Qwen2-VL and Qwen2.5-VL.
pub(super) const QWEN2_VL: Family = Family {
    model_types: &["qwen2_vl", "qwen2_5_vl", "qwen2_vl_text", "qwen2_5_vl_text"],
    defaults: || {
        json!({"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
            "sliding_window": 4096, "max_window_layers": 80, "hidden_act": "silu"})
    },
    build: qwen2,
    ..MODEL
};

pub(super) const QWEN3: Family = Family {
    model_types: &["qwen3", "qwen3_vl_text"],
    defaults: || {
        json!({"hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128,
            "rms_norm_eps": 1e-6, "sliding_window": 4096, "max_window_layers": 28,
            "hidden_act": "silu"})
    },
    build: qwen3,
    ..MODEL
};

fn qwen2(m: &Build<'_>) -> Result<Graph, Error> {
    let windows = windows(m)?;
    let block = Llama { qkv_bias: true, ..Llama::read(m)? };
    block.graph(m, |layer, attention| Attention { window: windows[layer], ..attention })
}

fn qwen3(m: &Build<'_>) -> Result<Graph, Error> {
    let windows = windows(m)?;
    let bias = m.flag("attention_bias")?;
    let block = Llama { qkv_bias: bias, output_bias: bias, ..Llama::read(m)? };
    block.graph(m, |layer, attention| {
        head_norms(block.norms, Attention { window: windows[layer], ..attention })
    })
}

/// Norms over the heads of q and k, before they turn.
pub(super) fn head_norms(norms: Norms, attention: Attention) -> Attention {
    let norm = |name: &str| -> Option<NormSpec> { Some(norms.over(name, attention.head_dim)) };
    Attention { q_norm: norm("self_attn.q_norm"), k_norm: norm("self_attn.k_norm"), ..attention }
}

/// Layers from `max_window_layers` on slide, if any do.
fn windows(m: &Build<'_>) -> Result<Vec<Window>, Error> {
    let window = m.sliding_if_used()?;
    let first = m.count("max_window_layers")?;
    let slides = m.slides(|layer| layer >= first)?;
    Ok(slides.into_iter().map(|slides| if slides { window } else { Window::Full }).collect())
}
