//! DeepSeek V2 and V3: latent attention, and experts that are chosen from groups beside shared ones.

use gptq_core::Gate;
use serde_json::json;

use super::{Family, MODEL};
use crate::{
    Error,
    arch::{
        block::{BlockBuilder, ExpertNames},
        build::{Build, Heads, Norms},
    },
    graph::{
        Add, Attention, Graph, GroupRank, Groups, HeadRope, Latent, Qkv, Reads, Reg, Router,
        Scoring, Small, Then,
    },
};

pub(super) const DEEPSEEK_V2: Family = Family {
    model_types: &["deepseek_v2"],
    defaults: || {
        json!({"kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 64,
            "n_shared_experts": 2, "moe_intermediate_size": 1407, "routed_scaling_factor": 1.0,
            "first_k_dense_replace": 0, "topk_method": "greedy", "rms_norm_eps": 1e-6,
            "hidden_act": "silu", "rope_interleave": true})
    },
    build: v2,
    ..MODEL
};

pub(super) const DEEPSEEK_V3: Family = Family {
    model_types: &["deepseek_v3"],
    defaults: || {
        json!({"kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 256,
            "n_shared_experts": 1, "moe_intermediate_size": 2048, "routed_scaling_factor": 2.5,
            "n_group": 8, "topk_group": 4, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
            "norm_topk_prob": true, "rms_norm_eps": 1e-6, "hidden_act": "silu",
            "rope_interleave": true})
    },
    build: v3,
    ..MODEL
};

/// Of the norms of latents, whatever `rms_norm_eps` says.
const LATENT_EPS: f32 = 1e-6;

fn v2(m: &Build<'_>) -> Result<Graph, Error> {
    let method = m.keys.text("topk_method")?;
    let grouped = method == "group_limited_greedy";
    if !grouped && method != "greedy" {
        let message = format!("is {method:?}, but greedy and group_limited_greedy are known");
        return Err(m.keys.error("topk_method", message));
    }
    let groups = if grouped { groups(m, GroupRank::Best)? } else { None };
    let scale = m.number("routed_scaling_factor")?.unwrap_or(1.0);
    graph(m, |_, router| Router { groups, scale, normalize: false, ..router })
}

fn v3(m: &Build<'_>) -> Result<Graph, Error> {
    let groups = groups(m, GroupRank::BestTwo)?;
    let scale = m.number("routed_scaling_factor")?.unwrap_or(1.0);
    let (normalize, experts) = (m.flag("norm_topk_prob")?, m.experts()?);
    graph(m, |b, router| Router {
        correction: Some(Small::row(b.full("mlp.gate.e_score_correction_bias"), experts)),
        scoring: Scoring::Sigmoid,
        groups,
        scale,
        normalize,
        ..router
    })
}

fn groups(m: &Build<'_>, rank: GroupRank) -> Result<Option<Groups>, Error> {
    let (count, experts) = (m.count("n_group")?, m.experts()?);
    let keep = m.count("topk_group")?;
    if experts % count != 0 || keep > count || (rank == GroupRank::BestTwo && experts < 2 * count) {
        let message = format!("is {count} with topk_group {keep}, for {experts} experts");
        return Err(m.keys.error("n_group", message));
    }
    Ok(Some(Groups { count, keep, rank }))
}

/// Sizes of latent attention.
#[derive(Clone, Copy)]
struct Mla {
    heads: usize,
    still: usize,
    turning: usize,
    value: usize,
    /// Width of the latent of queries, if they have one.
    query_rank: Option<usize>,
    rank: usize,
    bias: bool,
}

fn graph(
    m: &Build<'_>,
    router: impl Fn(&BlockBuilder<'_>, Router) -> Router,
) -> Result<Graph, Error> {
    let norms = Norms::rms(m.eps("rms_norm_eps")?);
    let sizes = Mla {
        heads: m.config.heads,
        still: m.count("qk_nope_head_dim")?,
        turning: m.count("qk_rope_head_dim")?,
        value: m.count("v_head_dim")?,
        query_rank: m.keys.optional_count("q_lora_rank")?,
        rank: m.count("kv_lora_rank")?,
        bias: m.flag("attention_bias")?,
    };
    let rope = m.rope(sizes.turning)?;
    let attention = attention(m, sizes, rope.score_factor())?;
    let gate = m.gate("hidden_act")?;
    let dense = m.keys.optional_number("first_k_dense_replace")?.unwrap_or(0.0) as usize;
    let blocks = m.blocks("layers", |b, layer| {
        latents(m, b, norms, sizes, attention.clone());
        b.output("self_attn.o_proj", sizes.bias, Add::default());
        let reads = b.normed(norms, "post_attention_layernorm");
        match layer < dense {
            true => {
                let inner = m.count("intermediate_size")?;
                b.gated_mlp(reads, "mlp", inner, false, gate, Add::default());
            }
            false => experts(m, b, reads, gate, &router)?,
        }
        Ok(())
    })?;
    Ok(m.graph(blocks, Some(m.norm(norms, "norm")), vec![rope]))
}

fn attention(m: &Build<'_>, s: Mla, score_factor: f32) -> Result<Attention, Error> {
    let dim = s.still + s.turning;
    let heads = m.attention(Heads { heads: s.heads, kv_heads: s.heads, dim });
    let interleaved = m.flag("rope_interleave")?;
    Ok(Attention {
        value_dim: s.value,
        qkv: Qkv::latent(s.heads, s.still, s.turning, s.value),
        rope: Some(HeadRope { table: 0, offset: s.still, interleaved }),
        scale: heads.scale * score_factor,
        ..heads
    })
}

/// From the residual to held queries, latents, and what is attended from them.
fn latents(m: &Build<'_>, b: &mut BlockBuilder<'_>, norms: Norms, s: Mla, attention: Attention) {
    let hidden = m.hidden();
    let queries = s.heads * (s.still + s.turning);
    let latent = Norms::rms(LATENT_EPS);
    let over = |name: &str, width| latent.over(&b.full(name), width);
    let first = match s.query_rank {
        Some(rank) => b.linear("self_attn.q_a_proj", rank, hidden, s.bias),
        None => b.linear("self_attn.q_proj", queries, hidden, false),
    };
    let second = b.linear("self_attn.kv_a_proj_with_mqa", s.rank + s.turning, hidden, s.bias);
    let then = Latent {
        q_norm: s.query_rank.map(|rank| over("self_attn.q_a_layernorm", rank)),
        kv_norm: over("self_attn.kv_a_layernorm", s.rank),
        rank: s.rank,
    };
    let reads = b.normed(norms, "input_layernorm");
    b.stage(reads, vec![first, second], Then::Latent(Box::new(then)));
    if let Some(rank) = s.query_rank {
        let widen = b.linear("self_attn.q_b_proj", queries, rank, false);
        b.stage(Reads::Held(Reg::Query), vec![widen], Then::Hold(Reg::Query));
    }
    let width = s.heads * (s.still + s.value);
    b.attend_latent(b.linear("self_attn.kv_b_proj", width, s.rank, false), attention);
}

fn experts(
    m: &Build<'_>,
    b: &mut BlockBuilder<'_>,
    reads: Reads,
    gate: Gate,
    router: impl Fn(&BlockBuilder<'_>, Router) -> Router,
) -> Result<(), Error> {
    let (count, inner) = (m.experts()?, m.count("moe_intermediate_size")?);
    let names = ExpertNames::new("mlp.experts", count, inner);
    let plain = b.router("mlp.gate", count, m.count("num_experts_per_tok")?, gate);
    let router = router(b, plain);
    let shared = m.keys.optional_number("n_shared_experts")?.unwrap_or(0.0) as usize;
    let shared = (shared > 0).then(|| ("mlp.shared_experts", shared.saturating_mul(inner)));
    b.experts(reads, &names, router, shared, Add::default());
    Ok(())
}
