//! GraniteMoE: Granite with a mixture of experts for each MLP.

use serde_json::json;

use super::{
    Family, MODEL,
    granite::{multiplier, scaled_ends},
};
use crate::{
    Error,
    arch::{
        block::ExpertNames,
        build::{Build, Norms},
    },
    graph::{Add, Attention, Graph, Router, Scoring},
};

pub(super) const GRANITEMOE: Family = Family {
    model_types: &["granitemoe"],
    defaults: || {
        json!({"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
            "num_hidden_layers": 32, "num_attention_heads": 32, "rms_norm_eps": 1e-6,
            "embedding_multiplier": 1.0, "attention_multiplier": 1.0, "residual_multiplier": 1.0,
            "logits_scaling": 1.0, "num_local_experts": 8, "num_experts_per_tok": 2,
            "hidden_act": "silu"})
    },
    build,
    ..MODEL
};

fn build(m: &Build<'_>) -> Result<Graph, Error> {
    let (norms, heads) = (Norms::rms(m.eps("rms_norm_eps")?), m.heads()?);
    let scale = multiplier(m, "attention_multiplier")?;
    let attention = Attention { scale, ..m.attention(heads) };
    let add = Add { scale: multiplier(m, "residual_multiplier")?, ..Add::default() };
    let (gate, bias) = (m.gate("hidden_act")?, m.flag("attention_bias")?);
    let (count, top) = (m.experts()?, m.count("num_experts_per_tok")?);
    let names = ExpertNames {
        parts: ["w1", "w3", "w2"],
        tensors: ["input_linear", "output_linear"].map(|n| format!("block_sparse_moe.{n}.weight")),
        ..ExpertNames::new("block_sparse_moe.experts", count, m.count("intermediate_size")?)
    };
    let blocks = m.blocks("layers", |b, _| {
        b.attend(b.normed(norms, "input_layernorm"), "self_attn", bias, attention.clone());
        b.output("self_attn.o_proj", bias, add.clone());
        let router = Router {
            scoring: Scoring::SoftmaxOfChosen,
            normalize: false,
            ..b.router("block_sparse_moe.router.layer", count, top, gate)
        };
        let reads = b.normed(norms, "post_attention_layernorm");
        b.experts(reads, &names, router, None, add.clone());
        Ok(())
    })?;
    let norm = m.norm(norms, "norm");
    scaled_ends(m, m.graph(blocks, Some(norm), vec![m.rope(heads.dim)?]))
}
