//! StarCoder 2: LayerNorms, an MLP without gate, biases everywhere.

use serde_json::json;

use super::{Family, MODEL};
use crate::{
    Error,
    arch::build::{Build, Norms},
    graph::{Add, Attention, Graph},
};

pub(super) const STARCODER2: Family = Family {
    model_types: &["starcoder2"],
    defaults: || {
        json!({"num_key_value_heads": 2, "norm_epsilon": 1e-5, "use_bias": true,
            "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": true})
    },
    build,
    ..MODEL
};

fn build(m: &Build<'_>) -> Result<Graph, Error> {
    let (norms, heads) = (Norms::layer(m.eps("norm_epsilon")?), m.heads()?);
    let attention = Attention { window: m.sliding()?, ..m.attention(heads) };
    let (f, inner) = (m.activation("hidden_act")?, m.count("intermediate_size")?);
    let bias = m.flag("use_bias")?;
    let blocks = m.blocks("layers", |b, _| {
        b.attend(b.normed(norms, "input_layernorm"), "self_attn", bias, attention.clone());
        b.output("self_attn.o_proj", bias, Add::default());
        let reads = b.normed(norms, "post_attention_layernorm");
        b.mlp(reads, ["mlp.c_fc", "mlp.c_proj"], inner, bias, f, Add::default());
        Ok(())
    })?;
    Ok(m.graph(blocks, Some(m.norm(norms, "norm")), vec![m.rope(heads.dim)?]))
}
