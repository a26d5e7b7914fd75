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
    let multiplier = |key: &str| Ok::<f32, Error>(m.number(key)?.unwrap_or(1.0));
    let scale = multiplier("attention_multiplier")?;
    let bias = m.flag("attention_bias")?;
    let block = Llama {
        qkv_bias: bias,
        output_bias: bias,
        branch_scale: multiplier("residual_multiplier")?,
        ..Llama::read(m)?
    };
    let mut graph = block.graph(m, |_, attention| Attention { scale, ..attention })?;
    graph.embed.scale = EmbedScale::By(multiplier("embedding_multiplier")?);
    graph.head.scale = 1.0 / multiplier("logits_scaling")?;
    Ok(graph)
}
