//! [`Positions`]: where the tokens of a stream stand, and which came before them.

use gptq_core::Backend;
use half::bf16;
use ndarray::Array2;

use crate::{
    Error,
    graph::{Alibi, Graph},
    rope::RopeTable,
};

/// Where the tokens of a stream stand, and which came before them.
pub(crate) struct Positions<T> {
    /// Cosines and sines of every rotary embedding of the graph.
    pub(crate) ropes: Vec<(T, T)>,
    /// heads × keys.
    pub(crate) key_bias: Option<T>,
    /// Tokens already in the cache.
    pub(crate) past: usize,
    /// Texts that stand one below the other.
    pub(crate) texts: usize,
}

impl<T> Positions<T> {
    /// Of `texts` texts of `tokens` tokens each, behind `past` others.
    pub(crate) fn new<B: Backend<Tensor = T>>(
        backend: &B,
        graph: &Graph,
        past: usize,
        tokens: usize,
        texts: usize,
    ) -> Result<Self, Error> {
        let table = |rope: &crate::rope::Rope| {
            let RopeTable { cos, sin } = rope.table(past, tokens);
            let upload = |one: Array2<f32>| {
                let all = Array2::from_shape_fn((texts * tokens, one.ncols()), |(t, i)| {
                    one[(t % tokens, i)]
                });
                backend.upload(all.view())
            };
            Ok((upload(cos)?, upload(sin)?))
        };
        let bias = |alibi: &Alibi| backend.upload(key_bias(alibi, past + tokens).view());
        Ok(Self {
            ropes: graph.ropes.iter().map(table).collect::<Result<_, Error>>()?,
            key_bias: graph.alibi.as_ref().map(bias).transpose()?,
            past,
            texts,
        })
    }
}

/// A slope per head times the position of the key.
fn key_bias(alibi: &Alibi, keys: usize) -> Array2<f32> {
    let rounded = |x: f32| if alibi.bf16 { bf16::from_f32(x).to_f32() } else { x };
    Array2::from_shape_fn((alibi.slopes.len(), keys), |(h, k)| {
        rounded(rounded(alibi.slopes[h]) * k as f32) * alibi.scale
    })
}
