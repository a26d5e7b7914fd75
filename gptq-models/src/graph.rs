//! A transformer block as data.
//!
//! A block is a list of [`Stage`]s. A stage is the set of linears that read the same input, what
//! that input is, and what becomes of their outputs. One interpreter (`block/`) runs any graph; the
//! quantization pipeline walks the same stages, which is why every product is computed once.
//!
//! ```text
//! LLaMA      reads                     linears    then
//! stage 0    norm of the residual      q, k, v    attention, held for the next stage
//! stage 1    what was held             o          added to the residual
//! stage 2    norm of the residual      gate, up   silu(gate) · up, held
//! stage 3    what was held             down       added to the residual
//! ```

/// Everything structural about one family of models.
#[derive(Debug)]
pub struct LayerGraph {
    /// `model_type` values of `config.json` that this graph serves.
    pub model_types: &'static [&'static str],
    /// Where blocks live: `{block_prefix}.{index}.{linear}`.
    pub block_prefix: &'static str,
    /// Token embedding, vocabulary × hidden.
    pub embed: &'static str,
    /// Norm after the last block.
    pub final_norm: &'static str,
    /// Output projection, vocabulary × hidden; the embedding if tied.
    pub head: &'static str,
    /// The block, in order of execution.
    pub stages: &'static [Stage],
}

/// Linears that read the same input and therefore share a Hessian.
#[derive(Debug)]
pub struct Stage {
    /// Where the input comes from.
    pub reads: Reads,
    /// Width of the input.
    pub input: Width,
    /// The linears, in the order that [`Then`] expects.
    pub linears: &'static [Slot],
    /// What becomes of the outputs.
    pub then: Then,
}

/// A linear's place in a block.
#[derive(Debug)]
pub struct Slot {
    /// Name below the block, without `.weight`.
    pub name: &'static str,
    /// Width of the output.
    pub output: Width,
    /// Which setting gives it a bias.
    pub bias: Bias,
}

/// The source of a stage's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// RMSNorm of the residual stream, by the norm of this name below the block.
    RmsNorm(&'static str),
    /// What the stage before left.
    Held,
}

/// The fate of a stage's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Outputs are q, k, v: rotate q and k, attend, hold the result.
    Attention,
    /// Outputs are gate, up: hold `silu(gate) · up`.
    GatedSilu,
    /// Add the output to the residual stream.
    AddToResidual,
}

/// A width that the model's configuration fixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// `hidden_size`.
    Hidden,
    /// `num_attention_heads · head_dim`.
    Heads,
    /// `num_key_value_heads · head_dim`.
    KvHeads,
    /// `intermediate_size`.
    Intermediate,
}

/// The configuration key that gives a linear its bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// `attention_bias`.
    Attention,
    /// `mlp_bias`.
    Mlp,
}
