//! The interpreter: what a stage reads, and what becomes of what it computes.
//!
//! A plain forward pass runs stage after stage on one sequence. Quantization runs the same two
//! functions stage by stage over all sequences, and solves in between.

use std::ops::Deref;

use gptq_core::{AttentionShape, Backend};
use gptq_pack::PackedBackend;

use crate::{
    Architecture, Error,
    graph::{Reads, Then},
    rope::{Rope, RopeTable},
    weights::StageWeights,
};

/// One sequence on its way through the blocks.
pub(crate) struct Stream<T> {
    /// tokens × hidden.
    pub(crate) residual: T,
    /// What the last stage left for the next one.
    pub(crate) held: Option<T>,
}

impl<T> Stream<T> {
    pub(crate) fn new(residual: T) -> Self {
        Self { residual, held: None }
    }

    /// A copy that can go another way.
    pub(crate) fn copy<B: Backend<Tensor = T>>(&self, backend: &B) -> Result<Self, Error> {
        Ok(Self {
            residual: copy(backend, &self.residual)?,
            held: self.held.as_ref().map(|held| copy(backend, held)).transpose()?,
        })
    }
}

/// A copy of a matrix, where it lives.
pub(crate) fn copy<B: Backend>(backend: &B, a: &B::Tensor) -> Result<B::Tensor, Error> {
    let rows: Vec<u32> = (0..backend.dim(a).0 as u32).collect();
    Ok(backend.gather(a, &rows)?)
}

/// A stage's input: made for it, or held from before.
pub(crate) enum Input<'a, T> {
    Made(T),
    Held(&'a T),
}

impl<T> Deref for Input<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Input::Made(x) => x,
            Input::Held(x) => x,
        }
    }
}

/// Where the tokens of a stream stand, and which came before them.
pub(crate) struct Positions<T> {
    cos: T,
    sin: T,
    /// Tokens already in the cache.
    past: usize,
}

impl<T> Positions<T> {
    pub(crate) fn new<B: Backend<Tensor = T>>(
        backend: &B,
        rope: &Rope,
        past: usize,
        tokens: usize,
    ) -> Result<Self, Error> {
        let RopeTable { cos, sin } = rope.table(past, tokens);
        Ok(Self { cos: backend.upload(cos.view())?, sin: backend.upload(sin.view())?, past })
    }
}

/// Keys and values of one block, with room for tokens to come.
pub(crate) struct LayerCache<T> {
    keys: T,
    values: T,
}

impl<T> LayerCache<T> {
    pub(crate) fn new<B: Backend<Tensor = T>>(
        backend: &B,
        arch: &Architecture,
        capacity: usize,
    ) -> Result<Self, Error> {
        let width = arch.config.kv_heads * arch.config.head_dim;
        Ok(Self { keys: backend.zeros(capacity, width)?, values: backend.zeros(capacity, width)? })
    }
}

/// Runs the stages of one architecture on one backend.
pub(crate) struct Interpreter<'a, B> {
    pub(crate) backend: &'a B,
    pub(crate) arch: &'a Architecture,
}

impl<B: PackedBackend> Interpreter<'_, B> {
    /// The input that all linears of a stage share.
    pub(crate) fn input<'s>(
        &self,
        stage: usize,
        norm: Option<&B::Tensor>,
        stream: &'s Stream<B::Tensor>,
    ) -> Result<Input<'s, B::Tensor>, Error> {
        match (self.arch.graph.stages[stage].reads, norm, &stream.held) {
            (Reads::RmsNorm(_), Some(norm), _) => {
                let eps = self.arch.config.rms_norm_eps;
                Ok(Input::Made(self.backend.rms_norm(&stream.residual, norm, eps)?))
            }
            (Reads::Held, _, Some(held)) => Ok(Input::Held(held)),
            _ => unreachable!("a graph's stage reads what no stage made"),
        }
    }

    /// Applies a stage's linears to its input and moves the stream on.
    pub(crate) fn advance(
        &self,
        stage: usize,
        weights: &StageWeights<B>,
        stream: &mut Stream<B::Tensor>,
        positions: &Positions<B::Tensor>,
        cache: Option<&mut LayerCache<B::Tensor>>,
    ) -> Result<(), Error> {
        let mut outputs = Vec::with_capacity(weights.linears.len());
        {
            let input = self.input(stage, weights.norm.as_ref(), stream)?;
            for linear in &weights.linears {
                outputs.push(linear.apply(self.backend, &input)?);
            }
        }
        stream.held = None;
        match self.arch.graph.stages[stage].then {
            Then::Attention => {
                let [q, k, v] = exactly(outputs);
                stream.held = Some(self.attend(q, k, v, positions, cache)?);
            }
            Then::GatedSilu => {
                let [gate, up] = exactly(outputs);
                stream.held = Some(self.backend.gated_silu(&gate, &up)?);
            }
            Then::AddToResidual => {
                let [branch] = exactly(outputs);
                self.backend.add_assign(&mut stream.residual, &branch)?;
            }
        }
        Ok(())
    }

    /// What the head reads: the final norm of the residual stream.
    pub(crate) fn finish(
        &self,
        norm: &B::Tensor,
        stream: &Stream<B::Tensor>,
    ) -> Result<B::Tensor, Error> {
        Ok(self.backend.rms_norm(&stream.residual, norm, self.arch.config.rms_norm_eps)?)
    }

    fn attend(
        &self,
        mut q: B::Tensor,
        mut k: B::Tensor,
        v: B::Tensor,
        positions: &Positions<B::Tensor>,
        cache: Option<&mut LayerCache<B::Tensor>>,
    ) -> Result<B::Tensor, Error> {
        let (backend, config) = (self.backend, &self.arch.config);
        backend.rope(&mut q, &positions.cos, &positions.sin, config.head_dim)?;
        backend.rope(&mut k, &positions.cos, &positions.sin, config.head_dim)?;
        let tokens = backend.dim(&q).0;
        let shape = AttentionShape {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
            keys: positions.past + tokens,
        };
        Ok(match cache {
            Some(cache) => {
                backend.write_rows(&mut cache.keys, positions.past, &k)?;
                backend.write_rows(&mut cache.values, positions.past, &v)?;
                backend.attention(&q, &cache.keys, &cache.values, &shape)?
            }
            None => backend.attention(&q, &k, &v, &shape)?,
        })
    }
}

fn exactly<T, const N: usize>(outputs: Vec<T>) -> [T; N] {
    let found = outputs.len();
    outputs
        .try_into()
        .unwrap_or_else(|_| unreachable!("a graph's stage has {found} linears, not {N}"))
}
