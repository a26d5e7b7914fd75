//! LLaMA 1 to 3 and everything saved as `model_type: llama`.

use crate::graph::{Bias, LayerGraph, Reads, Slot, Stage, Then, Width};

/// Pre-norm, grouped-query attention with RoPE, gated MLP.
pub const LLAMA: LayerGraph = LayerGraph {
    model_types: &["llama"],
    block_prefix: "model.layers",
    embed: "model.embed_tokens.weight",
    final_norm: "model.norm.weight",
    head: "lm_head.weight",
    stages: &[
        Stage {
            reads: Reads::RmsNorm("input_layernorm.weight"),
            input: Width::Hidden,
            linears: &[
                Slot { name: "self_attn.q_proj", output: Width::Heads, bias: Bias::Attention },
                Slot { name: "self_attn.k_proj", output: Width::KvHeads, bias: Bias::Attention },
                Slot { name: "self_attn.v_proj", output: Width::KvHeads, bias: Bias::Attention },
            ],
            then: Then::Attention,
        },
        Stage {
            reads: Reads::Held,
            input: Width::Heads,
            linears: &[Slot {
                name: "self_attn.o_proj",
                output: Width::Hidden,
                bias: Bias::Attention,
            }],
            then: Then::AddToResidual,
        },
        Stage {
            reads: Reads::RmsNorm("post_attention_layernorm.weight"),
            input: Width::Hidden,
            linears: &[
                Slot { name: "mlp.gate_proj", output: Width::Intermediate, bias: Bias::Mlp },
                Slot { name: "mlp.up_proj", output: Width::Intermediate, bias: Bias::Mlp },
            ],
            then: Then::GatedSilu,
        },
        Stage {
            reads: Reads::Held,
            input: Width::Intermediate,
            linears: &[Slot { name: "mlp.down_proj", output: Width::Hidden, bias: Bias::Mlp }],
            then: Then::AddToResidual,
        },
    ],
};
