//! Gemma 1, 2 and 3: norms with weights stored less one, scaled embeddings, GELU gates; from 2 on
//! norms on both sides of each branch.

use gptq_core::{Gate, Pointwise, Window};
use serde_json::json;

use super::{Family, MODEL};
use crate::{
    Error,
    arch::build::{Build, Norms},
    graph::{Add, Attention, EmbedScale, Graph, HeadRope},
    rope::Rope,
};

const GATE: Gate = Gate::Of(Pointwise::GeluTanh);

pub(super) const GEMMA: Family = Family {
    model_types: &["gemma"],
    defaults: || {
        json!({"num_key_value_heads": 16, "head_dim": 256, "rms_norm_eps": 1e-6,
            "tie_word_embeddings": true})
    },
    build: gemma,
    ..MODEL
};

pub(super) const GEMMA2: Family = Family {
    model_types: &["gemma2"],
    defaults: || {
        json!({"num_key_value_heads": 4, "head_dim": 256, "rms_norm_eps": 1e-6,
            "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0, "sliding_window": 4096, "tie_word_embeddings": true})
    },
    build: gemma2,
    ..MODEL
};

pub(super) const GEMMA3: Family = Family {
    model_types: &["gemma3_text", "gemma3"],
    defaults: || {
        json!({"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
            "vocab_size": 262208, "max_position_embeddings": 131072, "rms_norm_eps": 1e-6,
            "query_pre_attn_scalar": 256, "sliding_window": 4096, "sliding_window_pattern": 6,
            "rope_theta": 1e6, "rope_local_base_freq": 1e4, "tie_word_embeddings": true})
    },
    build: gemma3,
    ..MODEL
};

fn norms(m: &Build<'_>) -> Result<Norms, Error> {
    Ok(Norms { plus_one: true, ..Norms::rms(m.eps("rms_norm_eps")?) })
}

fn gemma(m: &Build<'_>) -> Result<Graph, Error> {
    let (norms, heads, inner) = (norms(m)?, m.heads()?, m.count("intermediate_size")?);
    let bias = m.flag("attention_bias")?;
    let blocks = m.blocks("layers", |b, _| {
        b.attend(b.normed(norms, "input_layernorm"), "self_attn", bias, m.attention(heads));
        b.output("self_attn.o_proj", bias, Add::default());
        let reads = b.normed(norms, "post_attention_layernorm");
        b.gated_mlp(reads, "mlp", inner, false, GATE, Add::default());
        Ok(())
    })?;
    let mut graph = m.graph(blocks, Some(m.norm(norms, "norm")), vec![m.rope(heads.dim)?]);
    graph.embed.scale = EmbedScale::RootOfWidth;
    Ok(graph)
}

fn gemma2(m: &Build<'_>) -> Result<Graph, Error> {
    let attention = scaled(m)?;
    let softcap = m.number("attn_logit_softcapping")?;
    let windows = windows(m, m.slides(|layer| layer % 2 == 0)?)?;
    let mut graph =
        sandwiched(m, |layer| Attention { softcap, window: windows[layer], ..attention.clone() })?;
    graph.ropes = vec![m.rope(attention.head_dim)?];
    graph.head.softcap = m.number("final_logit_softcapping")?;
    Ok(graph)
}

fn gemma3(m: &Build<'_>) -> Result<Graph, Error> {
    let (attention, norms) = (scaled(m)?, norms(m)?);
    let softcap = m.number("attn_logit_softcapping")?;
    let written = m.keys.optional_count("_sliding_window_pattern")?;
    let pattern = written.map_or_else(|| m.count("sliding_window_pattern"), Ok)?;
    let sliding = m.slides(|layer| (layer + 1) % pattern != 0)?;
    let windows = windows(m, sliding.clone())?;
    let dim = attention.head_dim;
    let mut graph = sandwiched(m, |layer| {
        let rope = HeadRope { table: usize::from(sliding[layer]), offset: 0, interleaved: false };
        let attention =
            Attention { softcap, window: windows[layer], rope: Some(rope), ..attention.clone() };
        super::qwen::head_norms(norms, attention)
    })?;
    let of_type = |ty| Rope::of_layer_type(m.keys, ty, dim, m.config.max_position_embeddings);
    let full = of_type("full_attention")?.map_or_else(|| m.rope(dim), Ok)?;
    let local = match of_type("sliding_attention")? {
        Some(rope) => rope,
        None => Rope::plain(f64::from(m.number("rope_local_base_freq")?.unwrap_or(1e4)), dim),
    };
    graph.ropes = vec![full, local];
    graph.head.softcap = m.number("final_logit_softcapping")?;
    Ok(graph)
}

/// Scores are scaled by a number of their own.
fn scaled(m: &Build<'_>) -> Result<Attention, Error> {
    let attention = m.attention(m.heads()?);
    let scalar = m.number("query_pre_attn_scalar")?.unwrap_or(256.0);
    Ok(Attention { scale: 1.0 / scalar.sqrt(), ..attention })
}

fn windows(m: &Build<'_>, slides: Vec<bool>) -> Result<Vec<Window>, Error> {
    let window = m.sliding()?;
    Ok(slides.into_iter().map(|slides| if slides { window } else { Window::Full }).collect())
}

/// Norms before and after each branch.
fn sandwiched(m: &Build<'_>, attention: impl Fn(usize) -> Attention) -> Result<Graph, Error> {
    let (norms, inner) = (norms(m)?, m.count("intermediate_size")?);
    let bias = m.flag("attention_bias")?;
    let blocks = m.blocks("layers", |b, layer| {
        let after = |norm: &str| Add { norm: Some(b.norm(norms, norm)), ..Add::default() };
        let (attended, fed) =
            (after("post_attention_layernorm"), after("post_feedforward_layernorm"));
        let attention = b.named(attention(layer));
        b.attend(b.normed(norms, "input_layernorm"), "self_attn", bias, attention);
        b.output("self_attn.o_proj", bias, attended);
        let reads = b.normed(norms, "pre_feedforward_layernorm");
        b.gated_mlp(reads, "mlp", inner, false, GATE, fed);
        Ok(())
    })?;
    let mut graph = m.graph(blocks, Some(m.norm(norms, "norm")), Vec::new());
    graph.embed.scale = EmbedScale::RootOfWidth;
    Ok(graph)
}
