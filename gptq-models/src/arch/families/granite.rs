//! Granite: LLaMA with four multipliers.

use serde_json::json;

use super::{Family, MODEL, llama::Llama};
use crate::{
    Error,
    arch::build::Build,
    graph::{Attention, EmbedScale, Graph},
};

pub(super) const GRANITE: Family = Family {
    model_types: &["granite"],
    defaults: || {
        json!({"rms_norm_eps": 1e-6, "embedding_multiplier": 1.0, "attention_multiplier": 1.0,
            "residual_multiplier": 1.0, "logits_scaling": 1.0, "hidden_act": "silu"})
    },
    build,
    ..MODEL
};

fn build(m: &Build<'_>) -> Result<Graph, Error> {
    let scale = multiplier(m, "attention_multiplier")?;
    let bias = m.flag("attention_bias")?;
    let block = Llama {
        qkv_bias: bias,
        output_bias: bias,
        branch_scale: multiplier(m, "residual_multiplier")?,
        ..Llama::read(m)?
    };
    scaled_ends(m, block.graph(m, |_, attention| Attention { scale, ..attention })?)
}

pub(super) fn multiplier(m: &Build<'_>, key: &str) -> Result<f32, Error> {
    Ok(m.number(key)?.unwrap_or(1.0))
}

/// The graph with the multipliers of embedding and logits.
pub(super) fn scaled_ends(m: &Build<'_>, mut graph: Graph) -> Result<Graph, Error> {
    graph.embed.scale = EmbedScale::By(multiplier(m, "embedding_multiplier")?);
    graph.head.scale = 1.0 / multiplier(m, "logits_scaling")?;
    Ok(graph)
}
