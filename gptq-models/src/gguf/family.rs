//! What GGUF calls the tensors of a family, and how it stores them. A new family is an entry of
//! [`FAMILIES`].

use crate::{
    Architecture, Error,
    graph::{Reads, Reg},
    rope::Rope,
};

/// One family's names.
#[derive(Debug)]
pub(super) struct Family {
    /// `model_type` values of `config.json`.
    model_types: &'static [&'static str],
    /// `general.architecture`, which is also the prefix of the family's keys.
    pub(super) architecture: &'static str,
    /// Which channels of a head turn together.
    pub(super) pairs: Pairs,
    /// Parts of a block: our name below the block, theirs below `blk.{index}`.
    parts: &'static [(&'static str, &'static str)],
}

/// Which channels of a head form a pair of the rotary embedding. Hugging Face checkpoints pair
/// channel `i` with `i + head_dim / 2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pairs {
    /// Neighbours: rows of q and k change places.
    Neighbours,
}

/// Embedding, norm after the last block, and head, in every family.
pub(super) const EMBED: &str = "token_embd.weight";
pub(super) const FINAL_NORM: &str = "output_norm.weight";
pub(super) const HEAD: &str = "output";
/// What frequencies are divided by, if they are.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

const FAMILIES: &[Family] = &[Family {
    model_types: &["llama"],
    architecture: "llama",
    pairs: Pairs::Neighbours,
    parts: LLAMA_PARTS,
}];

const LLAMA_PARTS: &[(&str, &str)] = &[
    ("input_layernorm.weight", "attn_norm.weight"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm.weight", "ffn_norm.weight"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// The numbers that GGUF wants to know, of models whose blocks are alike.
pub(super) struct Sizes<'a> {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    /// Channels inside the MLP.
    pub(super) inner: usize,
    pub(super) eps: f32,
    pub(super) rope: &'a Rope,
}

impl<'a> Sizes<'a> {
    /// Of a model of one of [`FAMILIES`], whose blocks have attention, RoPE and an MLP.
    pub(super) fn of(arch: &'a Architecture) -> Self {
        let graph = &arch.graph;
        let stages = || graph.blocks.iter().flat_map(|block| &block.stages);
        let attention = stages().find_map(|stage| stage.attention());
        let heads = attention.map_or((0, 0, 0), |a| (a.heads, a.kv_heads, a.head_dim));
        let down = stages().find(|stage| matches!(stage.reads, Reads::Held(Reg::Mlp)));
        let down = down.and_then(|stage| stage.linears.first());
        Self {
            heads: heads.0,
            kv_heads: heads.1,
            head_dim: heads.2,
            inner: down.map_or(0, |linear| linear.in_features),
            eps: graph.final_norm.as_ref().map_or(0.0, |norm| norm.eps),
            rope: &graph.ropes[0],
        }
    }
}

impl Family {
    /// # Errors
    /// [`Error::Config`] for a family that has no entry here.
    pub(super) fn of(arch: &Architecture, file: String) -> Result<&'static Self, Error> {
        let model_type = arch.config.model_type.as_str();
        FAMILIES.iter().find(|f| f.model_types.contains(&model_type)).ok_or_else(|| {
            let known: Vec<&str> = FAMILIES.iter().flat_map(|f| f.model_types).copied().collect();
            Error::Config {
                file,
                key: "model_type".into(),
                message: format!(
                    "is {model_type:?}, which cannot be written as GGUF; {} can",
                    known.join(", ")
                ),
            }
        })
    }

    /// Their name for a part of a block, given by our name below the block.
    pub(super) fn part(&self, block: usize, ours: &str) -> Result<String, Error> {
        let part = self.parts.iter().find(|(name, _)| *name == ours);
        part.map(|(_, theirs)| format!("blk.{block}.{theirs}")).ok_or_else(|| {
            Error::input(format!("{ours} has no name in GGUF's {} architecture", self.architecture))
        })
    }
}

impl Pairs {
    /// Where the rows of a stack of heads come from: row `i` of the result is row `rows[i]`.
    pub(super) fn rows(self, heads: usize, head_dim: usize) -> Vec<usize> {
        match self {
            Pairs::Neighbours => {
                let row = |i: usize| i / 2 + i % 2 * (head_dim / 2);
                (0..heads * head_dim).map(|r| r - r % head_dim + row(r % head_dim)).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_become_neighbours() {
        assert_eq!(Pairs::Neighbours.rows(2, 6), [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
    }
}
