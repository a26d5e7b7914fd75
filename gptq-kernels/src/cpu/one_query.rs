//! Attention of one query to the keys before it: what a token costs while text is generated.

use gptq_core::AttentionShape;
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::one_query_avx512;
use super::{
    attention::Softmax,
    isa::{Isa, Kernel, mul_add},
    linear::dot,
    rows::SMALL,
};

/// One query, and keys and values of tokens before and with it, all row-major.
pub(crate) struct OneQuery<'a> {
    pub(crate) isa: Isa,
    pub(crate) q: &'a [f32],
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
    pub(crate) shape: &'a AttentionShape,
}

impl OneQuery<'_> {
    /// Fills `out`, heads × value_dim. Heads that share keys read them together, as far as that
    /// leaves work for every thread.
    pub(crate) fn attend(
        &self,
        key_bias: Option<(&[f32], usize)>,
        sinks: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let &AttentionShape { heads, kv_heads, head_dim, value_dim, keys, .. } = self.shape;
        let small = keys * heads * (head_dim + value_dim) <= 4 * SMALL;
        let threads = if small { 1 } else { rayon::current_num_threads() };
        let fits = |n: &usize| heads.is_multiple_of(n * kv_heads) && heads / n >= threads;
        let together = (1..=heads / kv_heads).rev().find(fits).unwrap_or(1);
        let group = |(i, out): (usize, &mut [f32])| {
            self.heads(i * together, key_bias, sinks, out);
        };
        if small {
            out.chunks_mut(together * value_dim).enumerate().for_each(group);
        } else {
            out.par_chunks_mut(together * value_dim).enumerate().for_each(group);
        }
    }

    /// Heads from `first` on, of which all have the same keys and values.
    fn heads(
        &self,
        first: usize,
        key_bias: Option<(&[f32], usize)>,
        sinks: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let &AttentionShape { heads, kv_heads, head_dim, value_dim, scale, .. } = self.shape;
        let &AttentionShape { softcap, window, keys, .. } = self.shape;
        let kv = first * kv_heads / heads;
        let heads = first..first + out.len() / value_dim;
        let from = window.first_key(keys - 1);
        let seen = keys - from;
        let mut scores = vec![0.0; heads.len() * seen];
        let width = kv_heads * head_dim;
        self.isa.run(Scores {
            isa: self.isa,
            q: &self.q[heads.start * head_dim..heads.end * head_dim],
            keys: &self.k[from * width + kv * head_dim..],
            width,
            head_dim,
            scale,
            scores: &mut scores,
        });
        for (head, row) in heads.zip(scores.chunks_exact_mut(seen)) {
            let key_bias = key_bias.map(|(all, width)| &all[head * width..][from..keys]);
            let sink = sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[head]);
            self.isa.run(Softmax { row, softcap, key_bias, sink });
        }
        let width = kv_heads * value_dim;
        let values = &self.v[from * width + kv * value_dim..];
        self.isa.run(Sum { weights: &scores, values, width, value_dim, out });
    }
}

/// Keys or values that stay in a core's first cache while heads pass.
const BLOCK: usize = 32;

/// `scores[h, i] = scale · q[h] · keys[i]`, heads × keys; a key begins every `width` numbers.
struct Scores<'a> {
    isa: Isa,
    q: &'a [f32],
    keys: &'a [f32],
    width: usize,
    head_dim: usize,
    scale: f32,
    scores: &'a mut [f32],
}

impl Kernel for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { isa, q, keys, width, head_dim, scale, scores } = self;
        let seen = scores.len() / (q.len() / head_dim);
        let blocks = keys.chunks(BLOCK * width).take(seen.div_ceil(BLOCK));
        for (block, (keys, next)) in blocks.clone().zip(following(blocks)).enumerate() {
            fetch(next, width, head_dim);
            for (q, scores) in q.chunks_exact(head_dim).zip(scores.chunks_exact_mut(seen)) {
                let end = seen.min((block + 1) * BLOCK);
                let scores = &mut scores[block * BLOCK..end];
                let done = by_fours(isa, q, keys, width, scale, scores);
                let rest = scores.iter_mut().zip(keys.chunks(width)).skip(done);
                for (score, key) in rest {
                    *score = scale * dot::<FMA, 32>(q, &key[..head_dim]);
                }
            }
        }
    }
}

/// The block after each; nothing after the last.
fn following<'a>(blocks: impl Iterator<Item = &'a [f32]>) -> impl Iterator<Item = &'a [f32]> {
    blocks.skip(1).chain(std::iter::once(&[][..]))
}

/// Asks memory for `len` numbers of each row.
fn fetch(rows: &[f32], width: usize, len: usize) {
    #[cfg(target_arch = "x86_64")]
    one_query_avx512::fetch(rows, width, len);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (rows, width, len);
}

/// As many scores as are faster together; returns how many.
fn by_fours(
    isa: Isa,
    q: &[f32],
    keys: &[f32],
    width: usize,
    scale: f32,
    scores: &mut [f32],
) -> usize {
    #[cfg(target_arch = "x86_64")]
    if isa.has_avx512() && q.len().is_multiple_of(one_query_avx512::LANES) {
        // SAFETY: the level says that the CPU has the instructions.
        return unsafe { one_query_avx512::scores(q, keys, width, scale, scores) };
    }
    let _ = (isa, q, keys, width, scale, scores);
    0
}

/// `out[h] = Σ weights[h, i] · values[i]`, heads × value_dim; a value begins every `width` numbers.
struct Sum<'a> {
    weights: &'a [f32],
    values: &'a [f32],
    width: usize,
    value_dim: usize,
    out: &'a mut [f32],
}

impl Kernel for Sum<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        // As many sums as stay in registers.
        const LANES: usize = 64;
        let Self { weights, values, width, value_dim, out } = self;
        let seen = weights.len() / (out.len() / value_dim);
        out.fill(0.0);
        let blocks = values.chunks(BLOCK * width).take(seen.div_ceil(BLOCK));
        for (block, (values, next)) in blocks.clone().zip(following(blocks)).enumerate() {
            fetch(next, width, value_dim);
            for (weights, out) in weights.chunks_exact(seen).zip(out.chunks_exact_mut(value_dim)) {
                let weights = &weights[block * BLOCK..];
                let (whole, rest) = out.as_chunks_mut::<LANES>();
                for (c, out) in whole.iter_mut().enumerate() {
                    let mut sums = *out;
                    for (&weight, value) in weights.iter().zip(values.chunks(width)) {
                        let value: &[f32; LANES] =
                            value[c * LANES..].first_chunk().expect("a part of a value");
                        for i in 0..LANES {
                            sums[i] = mul_add::<FMA>(weight, value[i], sums[i]);
                        }
                    }
                    *out = sums;
                }
                for (&weight, value) in weights.iter().zip(values.chunks(width)) {
                    for (out, &value) in rest.iter_mut().zip(&value[whole.len() * LANES..value_dim])
                    {
                        *out = mul_add::<FMA>(weight, value, *out);
                    }
                }
            }
        }
    }
}
