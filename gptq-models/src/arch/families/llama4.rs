//! Llama 4, text: RoPE of neighbours with norms behind it on chunked layers, none on the others; experts
//! that read weighed inputs beside a shared one.

use gptq_core::{NormKind, Window};
use serde_json::json;

use super::{Family, MODEL};
use crate::{
    Error,
    arch::{
        block::ExpertNames,
        build::{Build, Norms},
    },
    graph::{Add, Attention, Axes, Graph, HeadRope, NormSpec, Router, Scoring, Weigh},
};

pub(super) const LLAMA4: Family = Family {
    model_types: &["llama4_text", "llama4"],
    defaults: || {
        json!({"num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-5,
            "rope_theta": 5e5, "num_local_experts": 16, "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 1, "use_qk_norm": true, "attn_temperature_tuning": true,
            "floor_scale": 8192, "attn_scale": 0.1, "attention_chunk_size": 8192,
            "intermediate_size": 8192, "intermediate_size_mlp": 16384, "hidden_act": "silu"})
    },
    build,
    ..MODEL
};

fn build(m: &Build<'_>) -> Result<Graph, Error> {
    let (norms, heads) = (Norms::rms(m.eps("rms_norm_eps")?), m.heads()?);
    let turns = m.per_layer("no_rope_layers", |layer| (layer + 1) % 4 != 0)?;
    let chunk = m.keys.optional_count("attention_chunk_size")?.map(Window::Chunked);
    let chunked = m.slides(|layer| turns[layer])?;
    let head_norm = m.flag("use_qk_norm")?.then_some(NormSpec {
        kind: NormKind::Rms,
        eps: norms.eps,
        segment: heads.dim,
        weight: None,
        bias: None,
    });
    let number = |key: &str, default| Ok::<f32, Error>(m.number(key)?.unwrap_or(default));
    let temperature = (number("floor_scale", 8192.0)?, number("attn_scale", 0.1)?);
    let tuned = match m.keys.optional_flag("attn_temperature_tuning") {
        Ok(flag) => flag.unwrap_or(true),
        // Older files write a number.
        Err(_) => number("attn_temperature_tuning", 1.0)? != 0.0,
    };
    let step = m.count("interleave_moe_layer_step")?;
    let listed = m.keys.optional_numbers("moe_layers")?.filter(|list| !list.is_empty());
    let bias = m.flag("attention_bias")?;
    let (gate, count) = (m.gate("hidden_act")?, m.experts()?);
    let (top, inner) = (m.count("num_experts_per_tok")?, m.count("intermediate_size")?);
    let names =
        ExpertNames { axes: Axes::InOut, ..ExpertNames::new("feed_forward.experts", count, inner) };
    let blocks = m.blocks("layers", |b, layer| {
        let turning = turns[layer];
        let norm = head_norm.clone().filter(|_| turning);
        let attention = Attention {
            q_norm: norm.clone(),
            k_norm: norm,
            norms_after_rope: true,
            rope: turning.then_some(HeadRope { table: 0, offset: 0, interleaved: true }),
            temperature: (tuned && !turning).then_some(temperature),
            window: if chunked[layer] { chunk.unwrap_or_default() } else { Window::Full },
            ..m.attention(heads)
        };
        b.attend(b.normed(norms, "input_layernorm"), "self_attn", bias, attention);
        b.output("self_attn.o_proj", bias, Add::default());
        let reads = b.normed(norms, "post_attention_layernorm");
        let sparse = match &listed {
            Some(list) => list.contains(&(layer as f64)),
            None => (layer + 1) % step == 0,
        };
        if !sparse {
            let inner = m.count("intermediate_size_mlp")?;
            b.gated_mlp(reads, "feed_forward", inner, false, gate, Add::default());
            return Ok(());
        }
        let router = Router {
            scoring: Scoring::Sigmoid,
            normalize: false,
            weigh: Weigh::Input,
            ..b.router("feed_forward.router", count, top, gate)
        };
        let shared = Some(("feed_forward.shared_expert", inner));
        b.experts(reads, &names, router, shared, Add::default());
        Ok(())
    })?;
    Ok(m.graph(blocks, Some(m.norm(norms, "norm")), vec![m.rope(heads.dim)?]))
}
