//! OLMo 3: OLMo 2 in which three of four layers slide, and only the others have their RoPE scaled.

use gptq_core::Window;
use serde_json::json;

use super::{Family, MODEL, olmo2};
use crate::{
    Error,
    arch::build::Build,
    graph::{Attention, Graph, HeadRope},
    rope::Rope,
};

pub(super) const OLMO3: Family = Family {
    model_types: &["olmo3"],
    defaults: || {
        json!({"vocab_size": 50304, "hidden_size": 4096, "intermediate_size": 11008,
            "num_hidden_layers": 32, "num_attention_heads": 32, "rms_norm_eps": 1e-5,
            "rope_theta": 5e5, "sliding_window": 4096, "hidden_act": "silu"})
    },
    build,
    ..MODEL
};

fn build(m: &Build<'_>) -> Result<Graph, Error> {
    let (window, slides) = (m.sliding()?, m.slides(|layer| (layer + 1) % 4 != 0)?);
    let mut graph = olmo2::graph(m, |layer, attention| Attention {
        window: if slides[layer] { window } else { Window::Full },
        rope: Some(HeadRope { table: usize::from(slides[layer]), offset: 0, interleaved: false }),
        ..attention
    })?;
    let dim = m.heads()?.dim;
    let of_type = |ty| Rope::of_layer_type(m.keys, ty, dim, m.config.max_position_embeddings);
    let full = of_type("full_attention")?.map_or_else(|| m.rope(dim), Ok)?;
    let theta = m.keys.optional_number("rope_theta")?.unwrap_or(5e5);
    let local = of_type("sliding_attention")?.unwrap_or_else(|| Rope::plain(theta, dim));
    graph.ropes = vec![full, local];
    Ok(graph)
}
