//! Mixtral: Mistral with a mixture of experts for each MLP.

use serde_json::json;

use super::{Family, MODEL};
use crate::{
    Error,
    arch::{
        block::ExpertNames,
        build::{Build, Norms},
    },
    graph::{Add, Attention, Graph},
};

pub(super) const MIXTRAL: Family = Family {
    model_types: &["mixtral"],
    defaults: || {
        json!({"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
            "num_local_experts": 8, "num_experts_per_tok": 2, "hidden_act": "silu"})
    },
    build,
    ..MODEL
};

fn build(m: &Build<'_>) -> Result<Graph, Error> {
    let (norms, heads) = (Norms::rms(m.eps("rms_norm_eps")?), m.heads()?);
    let attention = Attention { window: m.sliding()?, ..m.attention(heads) };
    let (gate, experts) = (m.gate("hidden_act")?, m.experts()?);
    let (top, inner) = (m.count("num_experts_per_tok")?, m.count("intermediate_size")?);
    let blocks = m.blocks("layers", |b, _| {
        b.attend(b.normed(norms, "input_layernorm"), "self_attn", false, attention.clone());
        b.output("self_attn.o_proj", false, Add::default());
        // Files have the names of the first release, newer programs those of other families.
        let (prefix, parts) = match b.has("mlp.") {
            true => ("mlp", ["gate_proj", "up_proj", "down_proj"]),
            false => ("block_sparse_moe", ["w1", "w3", "w2"]),
        };
        let path = format!("{prefix}.experts");
        let names = ExpertNames { parts, ..ExpertNames::new(&path, experts, inner) };
        let router = b.router(&format!("{prefix}.gate"), experts, top, gate);
        let reads = b.normed(norms, "post_attention_layernorm");
        b.experts(reads, &names, router, None, Add::default());
        Ok(())
    })?;
    Ok(m.graph(blocks, Some(m.norm(norms, "norm")), vec![m.rope(heads.dim)?]))
}
