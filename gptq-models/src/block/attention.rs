//! Attention: from the outputs of linears to what its heads see.

use std::vec;

use gptq_core::{AttentionShape, Backend, Pointwise, RopeShape, ScoreTerms};
use gptq_pack::PackedBackend;

use super::{Interpreter, Positions, Stream, next};
use crate::{
    Error,
    graph::{Attention, HeadRope, Latent, Qkv, Reg},
    weights::StageWeights,
};

/// Keys and values of one block, with room for tokens to come.
pub(crate) struct LayerCache<T> {
    keys: T,
    values: T,
}

impl<T> LayerCache<T> {
    pub(crate) fn new<B: Backend<Tensor = T>>(
        backend: &B,
        attention: &Attention,
        capacity: usize,
    ) -> Result<Self, Error> {
        let heads = attention.kv_heads;
        Ok(Self {
            keys: backend.cache(capacity, heads * attention.head_dim)?,
            values: backend.cache(capacity, heads * attention.value_dim)?,
        })
    }
}

impl<B: PackedBackend> Interpreter<'_, B> {
    pub(super) fn attend(
        &self,
        attention: &Attention,
        outputs: &mut vec::IntoIter<B::Tensor>,
        weights: &StageWeights<B>,
        stream: &mut Stream<B::Tensor>,
        positions: &Positions<B::Tensor>,
        cache: Option<&mut LayerCache<B::Tensor>>,
    ) -> Result<B::Tensor, Error> {
        let backend = self.backend;
        let [mut q, mut k, mut v] = self.qkv(attention, outputs, stream, positions)?;
        if let Some(limit) = attention.clip {
            for x in [&mut q, &mut k, &mut v] {
                backend.apply(x, Pointwise::Clamp(limit))?;
            }
        }
        let latent = matches!(attention.qkv, Qkv::Latent { .. });
        for (x, norm, is_key) in
            [(&mut q, &attention.q_norm, false), (&mut k, &attention.k_norm, true)]
        {
            // The turning part of a latent key has turned already.
            let rope = attention.rope.filter(|_| !(latent && is_key));
            let turn = |x: &mut B::Tensor| match rope {
                Some(rope) => self.turn(x, rope, attention.head_dim, positions),
                None => Ok(()),
            };
            if !attention.norms_after_rope
                && let Some(norm) = norm
            {
                *x = self.norm(x, norm, &weights.small)?;
            }
            turn(x)?;
            if attention.norms_after_rope
                && let Some(norm) = norm
            {
                *x = self.norm(x, norm, &weights.small)?;
            }
        }
        let tokens = backend.dim(&q).0;
        let length = tokens / positions.texts;
        if let Some((floor, scale)) = attention.temperature {
            let at = |t: usize| (((positions.past + t + 1) as f32) / floor).floor();
            let factor = |t: usize| at(t % length).ln_1p() * scale + 1.0;
            let factors: Vec<f32> = (0..tokens).map(factor).collect();
            backend.scale_rows(&mut q, &factors)?;
        }
        let shape = AttentionShape {
            heads: attention.heads,
            kv_heads: attention.kv_heads,
            head_dim: attention.head_dim,
            value_dim: attention.value_dim,
            scale: attention.scale,
            softcap: attention.softcap,
            window: attention.window,
            keys: positions.past + length,
            texts: positions.texts,
        };
        let terms = ScoreTerms {
            key_bias: positions.key_bias.as_deref().filter(|_| attention.alibi),
            sinks: attention.sinks.as_ref().map(|sinks| weights.small.get(sinks)),
        };
        Ok(match cache {
            Some(cache) => {
                backend.write_rows(&mut cache.keys, positions.past, &k)?;
                backend.write_rows(&mut cache.values, positions.past, &v)?;
                backend.attention(&q, &cache.keys, &cache.values, &shape, terms)?
            }
            None => backend.attention(&q, &k, &v, &shape, terms)?,
        })
    }

    fn qkv(
        &self,
        attention: &Attention,
        outputs: &mut vec::IntoIter<B::Tensor>,
        stream: &mut Stream<B::Tensor>,
        positions: &Positions<B::Tensor>,
    ) -> Result<[B::Tensor; 3], Error> {
        let backend = self.backend;
        match &attention.qkv {
            Qkv::Separate => Ok([next(outputs), next(outputs), next(outputs)]),
            Qkv::Fused { q, k, v } => {
                let fused = next(outputs);
                let part = |index: &[u32]| backend.columns(&[&fused], index);
                Ok([part(q)?, part(k)?, part(v)?])
            }
            Qkv::Latent { k, v } => {
                let wide = next(outputs);
                let held = (stream.take(Reg::Query), stream.take(Reg::KeyRope));
                let (Some(q), Some(mut turning)) = held else {
                    unreachable!("latent attention without its latents")
                };
                if let Some(rope) = attention.rope {
                    let alone = HeadRope { offset: 0, ..rope };
                    let dim = backend.dim(&turning).1;
                    self.turn(&mut turning, alone, dim, positions)?;
                }
                let part = |index: &[u32]| backend.columns(&[&wide, &turning], index);
                let (k, v) = (part(k)?, part(v)?);
                Ok([q, k, v])
            }
        }
    }

    fn turn(
        &self,
        x: &mut B::Tensor,
        rope: HeadRope,
        head_dim: usize,
        positions: &Positions<B::Tensor>,
    ) -> Result<(), Error> {
        let HeadRope { table, offset, interleaved } = rope;
        let (cos, sin) = &positions.ropes[table];
        Ok(self.backend.rope(x, cos, sin, RopeShape { head_dim, offset, interleaved })?)
    }

    /// Queries or their latent, and the latent of keys and values beside the part that turns.
    pub(super) fn latents(
        &self,
        latent: &Latent,
        outputs: &mut vec::IntoIter<B::Tensor>,
        weights: &StageWeights<B>,
        stream: &mut Stream<B::Tensor>,
    ) -> Result<(), Error> {
        let mut query = next(outputs);
        if let Some(norm) = &latent.q_norm {
            query = self.norm(&query, norm, &weights.small)?;
        }
        let both = next(outputs);
        let (rank, width) = (latent.rank as u32, self.backend.dim(&both).1 as u32);
        let part = |range: std::ops::Range<u32>| {
            self.backend.columns(&[&both], &range.collect::<Vec<_>>())
        };
        stream.hold(Reg::KeyRope, part(rank..width)?);
        stream.hold(Reg::Latent, self.norm(&part(0..rank)?, &latent.kv_norm, &weights.small)?);
        stream.hold(Reg::Query, query);
        Ok(())
    }
}
