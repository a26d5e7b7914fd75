//! Attention as data.

use gptq_core::Window;

use super::{NormSpec, Small};

/// One attention: where q, k and v come from, how they turn, what is masked.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Channels of a head of queries and keys.
    pub head_dim: usize,
    /// Channels of a head of values.
    pub value_dim: usize,
    /// How outputs become queries, keys and values.
    pub qkv: Qkv,
    /// Largest size of an entry of q, k and v.
    pub clip: Option<f32>,
    /// Norm of the queries.
    pub q_norm: Option<NormSpec>,
    /// Norm of the keys.
    pub k_norm: Option<NormSpec>,
    /// Norms come after the rotation, not before it.
    pub norms_after_rope: bool,
    /// How queries and keys turn with the position, if they do.
    pub rope: Option<HeadRope>,
    /// Queries grow with the position: `1 + scale · ln(1 + ⌊(position + 1) / floor⌋)`; (floor, scale).
    pub temperature: Option<(f32, f32)>,
    /// Factor on `q · k`.
    pub scale: f32,
    /// `cap · tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// The keys that a query sees.
    pub window: Window,
    /// Scores get the graph's [`Alibi`].
    pub alibi: bool,
    /// A score per head that no key has.
    pub sinks: Option<Small>,
}

/// How outputs of linears become queries, keys and values.
#[derive(Clone, Debug)]
pub enum Qkv {
    /// Three outputs.
    Separate,
    /// One output; the channels of each.
    Fused {
        /// Channels of the queries.
        q: Vec<u32>,
        /// Channels of the keys.
        k: Vec<u32>,
        /// Channels of the values.
        v: Vec<u32>,
    },
    /// Queries were held. One output has the values and the still parts of the keys; the turning
    /// part, held too, comes after them and is one for all heads.
    Latent {
        /// Channels of the keys.
        k: Vec<u32>,
        /// Channels of the values.
        v: Vec<u32>,
    },
}

/// How a head turns with the position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadRope {
    /// Which of the graph's rotary embeddings.
    pub table: usize,
    /// First channel of a head that turns.
    pub offset: usize,
    /// Neighbours pair up, not halves.
    pub interleaved: bool,
}

/// Multi-head latent attention, up to the products that widen its latents.
#[derive(Clone, Debug)]
pub struct Latent {
    /// Norm of the latent of queries; none if the output is the queries.
    pub q_norm: Option<NormSpec>,
    /// Norm of the latent of keys and values.
    pub kv_norm: NormSpec,
    /// Channels of that latent; what follows turns with the position.
    pub rank: usize,
}

/// Linear biases by distance: a head's slope times the position of the key.
#[derive(Clone, Debug, PartialEq)]
pub struct Alibi {
    /// Of each head.
    pub slopes: Vec<f32>,
    /// Slopes and products are rounded to bfloat16.
    pub bf16: bool,
    /// What products are multiplied by.
    pub scale: f32,
}

impl Qkv {
    /// Heads that follow one another, each with its query, key and value.
    pub fn by_head(heads: usize, head_dim: usize) -> Self {
        let part = |part: usize| {
            (0..heads).flat_map(move |h| channels((3 * h + part) * head_dim, head_dim)).collect()
        };
        Qkv::Fused { q: part(0), k: part(1), v: part(2) }
    }

    /// All queries, then all keys, then all values.
    pub fn by_kind(heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        Qkv::Fused {
            q: channels(0, q).collect(),
            k: channels(q, kv).collect(),
            v: channels(q + kv, kv).collect(),
        }
    }

    /// Groups of query heads, each followed by its key and its value head.
    pub fn by_group(heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        let per = heads / kv_heads;
        let group = move |g: usize| g * (per + 2) * head_dim;
        let one = |at: usize| {
            (0..kv_heads).flat_map(move |g| channels(group(g) + at * head_dim, head_dim)).collect()
        };
        Qkv::Fused {
            q: (0..kv_heads).flat_map(|g| channels(group(g), per * head_dim)).collect(),
            k: one(per),
            v: one(per + 1),
        }
    }

    /// Latent attention: heads of `still` key and `value_dim` value channels each, and after all of
    /// them `turning` channels of every head's key.
    pub fn latent(heads: usize, still: usize, turning: usize, value_dim: usize) -> Self {
        let head = move |h: usize| h * (still + value_dim);
        let end = heads * (still + value_dim);
        let key = |h| channels(head(h), still).chain(channels(end, turning));
        Qkv::Latent {
            k: (0..heads).flat_map(key).collect(),
            v: (0..heads).flat_map(|h| channels(head(h) + still, value_dim)).collect(),
        }
    }
}

fn channels(start: usize, count: usize) -> impl Iterator<Item = u32> {
    (start as u32)..(start + count) as u32
}

impl Alibi {
    /// BLOOM's and Falcon's slopes: powers of one base, and for heads beyond a power of two the odd
    /// powers of the next finer base.
    pub fn bloom(heads: usize) -> Vec<f32> {
        let whole = 1 << heads.ilog2();
        let base = |n: i32| 2f64.powf(-(2f64.powf(-(f64::from(n).log2() - 3.0))));
        let first = (1..=whole).map(|i| base(whole).powi(i));
        let rest = (0..heads as i32 - whole).map(|i| base(2 * whole).powi(2 * i + 1));
        first.chain(rest).map(|slope| slope as f32).collect()
    }

    /// MPT's slopes: those of the next power of two, the odd ones first, cut to the number of heads.
    pub fn mpt(heads: usize) -> Vec<f32> {
        let n = heads.next_power_of_two();
        let slope = |i: usize| 2f64.powf(-8.0 * (i + 1) as f64 / n as f64) as f32;
        match n == heads {
            true => (0..n).map(slope).collect(),
            false => (1..n).step_by(2).chain((0..n).step_by(2)).map(slope).take(heads).collect(),
        }
    }
}
