//! SmolLM3: LLaMA in which every fourth layer does not turn with the position.

use gptq_core::Window;
use serde_json::json;

use super::{Family, MODEL, llama::Llama};
use crate::{
    Error,
    arch::build::Build,
    graph::{Attention, Graph},
};

pub(super) const SMOLLM3: Family = Family {
    model_types: &["smollm3"],
    defaults: || {
        json!({"num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_theta": 2e6,
            "no_rope_layer_interval": 4, "tie_word_embeddings": true, "hidden_act": "silu"})
    },
    build,
    ..MODEL
};

fn build(m: &Build<'_>) -> Result<Graph, Error> {
    let interval = m.count("no_rope_layer_interval")?;
    // The list says which layers do turn, whatever its name.
    let turns = m.per_layer("no_rope_layers", |layer| (layer + 1) % interval != 0)?;
    let slides = m.sliding_if_used()?;
    let sliding = m.slides(|layer| !turns[layer])?;
    let bias = m.flag("attention_bias")?;
    let block = Llama { qkv_bias: bias, output_bias: bias, ..Llama::read(m)? };
    block.graph(m, |layer, attention| Attention {
        rope: attention.rope.filter(|_| turns[layer]),
        window: if sliding[layer] { slides } else { Window::Full },
        ..attention
    })
}
