//! LLaMA 1 to 3 and everything saved as `model_type: llama`: pre-norm, RoPE, gated MLP.

use serde_json::json;

use super::{Family, MODEL};
use crate::{
    Error,
    arch::build::{Build, Norms},
    graph::{Add, Attention, Graph},
};

pub(super) const LLAMA: Family = Family {
    model_types: &["llama"],
    defaults: || {
        json!({"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "vocab_size": 32000, "rms_norm_eps": 1e-6,
            "hidden_act": "silu"})
    },
    build,
    ..MODEL
};

pub(super) fn build(m: &Build<'_>) -> Result<Graph, Error> {
    let bias = m.flag("attention_bias")?;
    let block = Llama { qkv_bias: bias, output_bias: bias, ..Llama::read(m)? };
    block.graph(m, |_, attention| attention)
}

/// A block under LLaMA's names, and what families change in it.
pub(super) struct Llama {
    pub(super) norms: Norms,
    pub(super) attention: Attention,
    pub(super) qkv_bias: bool,
    pub(super) output_bias: bool,
    pub(super) mlp_bias: bool,
    /// What branches are multiplied by.
    pub(super) branch_scale: f32,
}

impl Llama {
    pub(super) fn read(m: &Build<'_>) -> Result<Self, Error> {
        Ok(Self {
            norms: Norms::rms(m.eps("rms_norm_eps")?),
            attention: m.attention(m.heads()?),
            qkv_bias: false,
            output_bias: false,
            mlp_bias: m.flag("mlp_bias")?,
            branch_scale: 1.0,
        })
    }

    /// The model of such blocks, each with its own attention.
    pub(super) fn graph(
        &self,
        m: &Build<'_>,
        attention: impl Fn(usize, Attention) -> Attention,
    ) -> Result<Graph, Error> {
        let gate = m.gate("hidden_act")?;
        let inner = m.count("intermediate_size")?;
        let add = Add { scale: self.branch_scale, ..Add::default() };
        let blocks = m.blocks("layers", |b, layer| {
            let reads = b.normed(self.norms, "input_layernorm");
            let attention = b.named(attention(layer, self.attention.clone()));
            b.attend(reads, "self_attn", self.qkv_bias, attention);
            b.output("self_attn.o_proj", self.output_bias, add.clone());
            let reads = b.normed(self.norms, "post_attention_layernorm");
            b.gated_mlp(reads, "mlp", inner, self.mlp_bias, gate, add.clone());
            Ok(())
        })?;
        let rope = m.rope(self.attention.head_dim)?;
        Ok(m.graph(blocks, Some(m.norm(self.norms, "norm")), vec![rope]))
    }
}
