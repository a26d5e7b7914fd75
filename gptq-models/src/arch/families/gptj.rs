//! GPT-J: attention and MLP side by side on one norm, RoPE of neighbours, a head with a bias.

use serde_json::json;

use super::Family;
use crate::{
    Error,
    arch::build::{Build, Heads, Norms},
    graph::{Add, Attention, Graph, HeadRope},
    rope::Rope,
};

pub(super) const GPTJ: Family = Family {
    model_types: &["gptj"],
    root: "transformer.",
    embed: "wte",
    heads: &["lm_head"],
    defaults: || json!({"layer_norm_epsilon": 1e-5, "activation_function": "gelu_new", "rotary_dim": 64}),
    build,
};

fn build(m: &Build<'_>) -> Result<Graph, Error> {
    let (norms, heads) = (Norms::layer(m.eps("layer_norm_epsilon")?), m.config.heads);
    let heads = Heads { heads, kv_heads: heads, dim: m.even_heads()? };
    let rope = HeadRope { table: 0, offset: 0, interleaved: true };
    let attention = Attention { rope: Some(rope), ..m.attention(heads) };
    let f = m.activation("activation_function")?;
    let inner = m.keys.optional_count("n_inner")?.unwrap_or(4 * m.hidden());
    let rotated = m.count("rotary_dim")?;
    if rotated > heads.dim || rotated % 2 != 0 {
        let message = format!("is {rotated}, but heads have {} channels", heads.dim);
        return Err(m.keys.error("rotary_dim", message));
    }
    let blocks = m.blocks("h", |b, _| {
        b.attend(b.normed(norms, "ln_1"), "attn", false, attention.clone());
        b.beside_up("mlp.fc_in", inner, true, f);
        b.output("attn.out_proj", false, Add::default());
        b.down("mlp.fc_out", inner, true, Add::default());
        Ok(())
    })?;
    let norm = m.norm(norms, "ln_f");
    let mut graph = m.graph(blocks, Some(norm), vec![Rope::plain(10_000.0, rotated)]);
    graph.head.place.bias = true;
    Ok(graph)
}
