//! [`Positions`]: where the tokens of a stream stand, and which came before them.

use std::sync::Arc;

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
    /// heads × at least the keys: [`key_bias`].
    pub(crate) key_bias: Option<Arc<T>>,
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
        key_bias: Option<Arc<T>>,
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
        Ok(Self {
            ropes: graph.ropes.iter().map(table).collect::<Result<_, Error>>()?,
            key_bias,
            past,
            texts,
        })
    }
}

/// What is added to the scores of so many keys, where a graph wants it: a slope per head times the
/// position of the key. Who adds keys one by one has it made once, for all that may come.
pub(crate) fn key_bias<B: Backend>(
    backend: &B,
    graph: &Graph,
    keys: usize,
) -> Result<Option<Arc<B::Tensor>>, Error> {
    let made = |Alibi { slopes, bf16, scale }: &Alibi| {
        let rounded = |x: f32| if *bf16 { bf16::from_f32(x).to_f32() } else { x };
        let bias = Array2::from_shape_fn((slopes.len(), keys), |(h, k)| {
            rounded(rounded(slopes[h]) * k as f32) * scale
        });
        Ok(Arc::new(backend.take(bias)?))
    };
    graph.alibi.as_ref().map(made).transpose()
}
