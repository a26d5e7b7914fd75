//! Mistral: LLaMA in which every layer slides, if there is a window.

use serde_json::json;

use super::{Family, MODEL, llama::Llama};
use crate::{
    Error,
    arch::build::Build,
    graph::{Attention, Graph},
};

pub(super) const MISTRAL: Family = Family {
    model_types: &["mistral", "ministral"],
    defaults: || {
        json!({"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000,
            "rms_norm_eps": 1e-6, "sliding_window": 4096, "hidden_act": "silu"})
    },
    build,
    ..MODEL
};

fn build(m: &Build<'_>) -> Result<Graph, Error> {
    let window = m.sliding()?;
    Llama::read(m)?.graph(m, |_, attention| Attention { window, ..attention })
}
