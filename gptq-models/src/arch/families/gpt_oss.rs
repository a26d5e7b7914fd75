//! gpt-oss: attention with sinks, windows on every other layer, experts with biases in one tensor and
//! a clamped activation.

use gptq_core::{Gate, Window};
use serde_json::json;

use super::{Family, MODEL};
use crate::{
    Error,
    arch::{
        block::ExpertNames,
        build::{Build, Norms},
    },
    graph::{Add, Attention, Axes, Graph, Outputs, Router, Scoring, Small},
};

pub(super) const GPT_OSS: Family = Family {
    model_types: &["gpt_oss"],
    defaults: || {
        json!({"num_key_value_heads": 8, "head_dim": 64, "num_local_experts": 128,
            "num_experts_per_tok": 4, "rms_norm_eps": 1e-5, "sliding_window": 128,
            "attention_bias": true, "swiglu_limit": 7.0, "swiglu_alpha": 1.702,
            "max_position_embeddings": 131072, "rope_theta": 150000.0,
            "rope_parameters": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0,
                "beta_slow": 1.0, "truncate": false, "original_max_position_embeddings": 4096,
                "rope_theta": 150000.0}})
    },
    build,
    ..MODEL
};

fn build(m: &Build<'_>) -> Result<Graph, Error> {
    let (norms, heads) = (Norms::rms(m.eps("rms_norm_eps")?), m.heads()?);
    let (window, slides) = (m.sliding()?, m.slides(|layer| layer % 2 == 0)?);
    let bias = m.flag("attention_bias")?;
    let (count, top) = (m.experts()?, m.count("num_experts_per_tok")?);
    let gate = Gate::Clamped {
        limit: m.number("swiglu_limit")?.unwrap_or(7.0),
        alpha: m.number("swiglu_alpha")?.unwrap_or(1.702),
    };
    let names = ExpertNames {
        bias: true,
        axes: Axes::InOut,
        shares: [Outputs::Even, Outputs::Odd],
        ..ExpertNames::new("mlp.experts", count, m.count("intermediate_size")?)
    };
    let blocks = m.blocks("layers", |b, layer| {
        let attention = Attention {
            window: if slides[layer] { window } else { Window::Full },
            sinks: Some(Small::row(b.full("self_attn.sinks"), heads.heads)),
            ..m.attention(heads)
        };
        b.attend(b.normed(norms, "input_layernorm"), "self_attn", bias, attention);
        b.output("self_attn.o_proj", bias, Add::default());
        let router = Router {
            bias: Some(Small::row(b.full("mlp.router.bias"), count)),
            scoring: Scoring::SoftmaxOfChosen,
            normalize: false,
            ..b.router("mlp.router", count, top, gate)
        };
        let reads = b.normed(norms, "post_attention_layernorm");
        b.experts(reads, &names, router, None, Add::default());
        Ok(())
    })?;
    Ok(m.graph(blocks, Some(m.norm(norms, "norm")), vec![m.rope(heads.dim)?]))
}
