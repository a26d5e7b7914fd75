//! A model as data.
//!
//! A [`Graph`] is an embedding, a list of [`Block`]s, and a head. A block is a list of [`Stage`]s: the
//! linears that read the same input, what that input is, and what becomes of their outputs. One
//! interpreter runs any graph; the quantization pipeline walks the same stages, which is why every
//! product is computed once.
//!
//! ```text
//! LLaMA      reads                     linears    then
//! stage 0    norm of the residual      q, k, v    attention, held
//! stage 1    what attention held       o          added to the residual
//! stage 2    norm of the residual      gate, up   silu(gate) · up, held
//! stage 3    what the MLP held         down       added to the residual
//! ```
//!
//! All names in a graph are those of one checkpoint's tensors, whole.

mod attention;
mod experts;
mod names;
mod tensors;

use gptq_core::{Gate, Pointwise};

pub use crate::source::{Axes, FusedExpert, Outputs, Stored};
pub use attention::{Alibi, Attention, HeadRope, Latent, Qkv};
pub use experts::{Experts, GroupRank, Groups, Router, Scoring, Weigh};
pub use names::LinearPlace;
pub use tensors::{Matrix, NormSpec, Small};

use crate::rope::Rope;

/// A model: everything structural, and every name and width.
#[derive(Clone, Debug)]
pub struct Graph {
    /// From token ids to the first residual.
    pub embed: Embed,
    /// In order of execution.
    pub blocks: Vec<Block>,
    /// Norm after the last block.
    pub final_norm: Option<NormSpec>,
    /// Dense product after the final norm, for heads narrower than the blocks.
    pub project_out: Option<Matrix>,
    /// From the last residual to logits.
    pub head: Head,
    /// The rotary embeddings that attentions name by index.
    pub ropes: Vec<Rope>,
    /// Linear biases by distance, for the attentions that want them.
    pub alibi: Option<Alibi>,
}

/// From token ids to the first residual.
#[derive(Clone, Debug)]
pub struct Embed {
    /// Vocabulary × width.
    pub table: Matrix,
    /// What rows are multiplied by.
    pub scale: EmbedScale,
    /// Dense product that widens the rows.
    pub project_in: Option<Matrix>,
    /// Learned positions, added: the table, and the row of position 0.
    pub positions: Option<(Matrix, usize)>,
    /// Norm before the first block.
    pub norm: Option<NormSpec>,
}

/// What embeddings are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum EmbedScale {
    /// Nothing.
    One,
    /// A number.
    By(f32),
    /// The root of the width, rounded to the table's element type.
    RootOfWidth,
}

/// From the last residual to logits.
#[derive(Clone, Debug)]
pub struct Head {
    /// Vocabulary × hidden.
    pub place: LinearPlace,
    /// The embedding serves if the file holds no head.
    pub tied: bool,
    /// What logits are multiplied by.
    pub scale: f32,
    /// `cap · tanh(logit / cap)`.
    pub softcap: Option<f32>,
}

/// One transformer block.
#[derive(Clone, Debug)]
pub struct Block {
    /// `model.layers.3` and the like.
    pub name: String,
    /// In order of execution.
    pub stages: Vec<Stage>,
}

/// Linears that read the same input and therefore share a Hessian.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Where the input comes from.
    pub reads: Reads,
    /// Linears that read all of it, in the order that `then` takes their outputs.
    pub linears: Vec<LinearPlace>,
    /// Linears that read some of its rows each.
    pub experts: Option<Experts>,
    /// What becomes of the outputs.
    pub then: Vec<Then>,
}

/// The source of a stage's input.
#[derive(Clone, Debug)]
pub enum Reads {
    /// A norm of the residual stream.
    Norm(NormSpec),
    /// A norm of the residual stream, which becomes the residual stream.
    NormInPlace(NormSpec),
    /// The residual stream as it is.
    Residual,
    /// What a stage before left.
    Held(Reg),
}

/// A place to leave something for a later stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    /// The result of attention.
    Attention,
    /// The inside of the MLP.
    Mlp,
    /// Queries, or what they are made from.
    Query,
    /// What keys and values are made from.
    Latent,
    /// The part of keys that turns with the position.
    KeyRope,
}

impl Reg {
    pub(crate) const COUNT: usize = 5;
}

/// The fate of a stage's outputs.
#[derive(Clone, Debug)]
pub enum Then {
    /// Takes q, k and v, or one fused output: attends, holds [`Reg::Attention`].
    Attend(Box<Attention>),
    /// Takes q (or its latent) and the latent of keys and values: holds what attention is made of.
    Latent(Box<Latent>),
    /// Takes one output and holds it.
    Hold(Reg),
    /// Takes gate and up, holds [`Reg::Mlp`].
    Gated(Gate),
    /// Takes one output, gate's channels before up's; holds [`Reg::Mlp`].
    GatedHalves(Gate),
    /// Takes one output, applies a function, holds [`Reg::Mlp`].
    Apply(Pointwise),
    /// Takes one output, or what experts made, or both, and adds it to the residual.
    Add(Box<Add>),
}

/// How a branch joins the residual stream.
#[derive(Clone, Debug)]
pub struct Add {
    /// Norm of the branch.
    pub norm: Option<NormSpec>,
    /// What the branch is multiplied by.
    pub scale: f32,
    /// Norm of the sum.
    pub then_norm: Option<NormSpec>,
}

impl Default for Add {
    fn default() -> Self {
        Self { norm: None, scale: 1.0, then_norm: None }
    }
}

impl Stage {
    /// Every linear, those of all tokens first, then expert by expert.
    pub fn all_linears(&self) -> impl Iterator<Item = &LinearPlace> {
        let experts = self.experts.iter().flat_map(|experts| experts.linears.iter().flatten());
        self.linears.iter().chain(experts)
    }

    /// Norms, biases of attention, routers: what the stage needs beside its linears.
    pub(crate) fn small(&self) -> Vec<&Small> {
        let mut norms = Vec::new();
        let mut out = Vec::new();
        if let Reads::Norm(norm) | Reads::NormInPlace(norm) = &self.reads {
            norms.push(norm);
        }
        if let Some(experts) = &self.experts {
            out.extend(experts.small());
        }
        for then in &self.then {
            match then {
                Then::Attend(attention) => {
                    norms.extend(attention.q_norm.iter().chain(&attention.k_norm));
                    out.extend(&attention.sinks);
                }
                Then::Latent(latent) => {
                    norms.extend(latent.q_norm.iter().chain([&latent.kv_norm]));
                }
                Then::Add(add) => norms.extend(add.norm.iter().chain(&add.then_norm)),
                Then::Hold(_) | Then::Gated(_) | Then::GatedHalves(_) | Then::Apply(_) => {}
            }
        }
        out.extend(norms.into_iter().flat_map(NormSpec::small));
        out
    }

    /// Channels of what the stage leaves for the next, if it does.
    pub(crate) fn holds(&self) -> Option<usize> {
        let mut outputs = self.linears.iter().map(|linear| linear.out_features);
        let mut held = None;
        for then in &self.then {
            let width = match then {
                Then::Attend(attention) => {
                    let reads = if matches!(attention.qkv, Qkv::Separate) { 3 } else { 1 };
                    outputs.by_ref().take(reads).for_each(drop);
                    attention.heads * attention.value_dim
                }
                Then::Latent(_) => outputs.by_ref().sum(),
                Then::Gated(_) => outputs.by_ref().take(2).last().unwrap_or(0),
                Then::GatedHalves(_) => outputs.next().unwrap_or(0) / 2,
                Then::Apply(_) | Then::Hold(_) => outputs.next().unwrap_or(0),
                Then::Add(_) => continue,
            };
            held = Some(held.unwrap_or(0) + width);
        }
        held
    }

    /// The attention of the stage, if it has one.
    pub(crate) fn attention(&self) -> Option<&Attention> {
        self.then.iter().find_map(|then| match then {
            Then::Attend(attention) => Some(&**attention),
            _ => None,
        })
    }
}

impl Graph {
    /// Every linear of the blocks, in the order it is reached.
    pub fn all_linears(&self) -> impl Iterator<Item = &LinearPlace> {
        self.blocks.iter().flat_map(|block| &block.stages).flat_map(Stage::all_linears)
    }

    /// Every tensor beside linears and head: name and shape.
    pub(crate) fn dense_tensors(&self) -> Vec<(&str, &[usize])> {
        let embed = &self.embed;
        let matrices = [Some(&embed.table), embed.project_in.as_ref(), self.project_out.as_ref()];
        let positions = embed.positions.as_ref().map(|(table, _)| table);
        let matrices = matrices.into_iter().flatten().chain(positions);
        let mut out: Vec<(&str, &[usize])> =
            matrices.map(|matrix| (matrix.name.as_str(), &matrix.shape[..])).collect();
        let norms = embed.norm.iter().chain(&self.final_norm).flat_map(NormSpec::small);
        let stages = self.blocks.iter().flat_map(|block| &block.stages);
        for small in norms.chain(stages.flat_map(Stage::small)) {
            out.extend(small.names.iter().map(|name| (name.as_str(), &small.shape[..])));
        }
        out
    }
}
