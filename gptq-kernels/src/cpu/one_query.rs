//! Attention of one query to the keys before it: what a token costs while text is generated.

use gptq_core::AttentionShape;
use rayon::prelude::*;

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
    /// Fills `out`, heads × value_dim. Heads go to threads, unless there is too little to do.
    pub(crate) fn attend(
        &self,
        key_bias: Option<(&[f32], usize)>,
        sinks: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let shape = self.shape;
        let head = |(head, out): (usize, &mut [f32])| {
            let bias = key_bias.map(|(all, width)| &all[head * width..][..shape.keys]);
            let sink = sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[head]);
            self.head(head, bias, sink, out);
        };
        if shape.keys * shape.heads * (shape.head_dim + shape.value_dim) <= 4 * SMALL {
            out.chunks_mut(shape.value_dim).enumerate().for_each(head);
        } else {
            out.par_chunks_mut(shape.value_dim).enumerate().for_each(head);
        }
    }

    fn head(&self, head: usize, key_bias: Option<&[f32]>, sink: f32, out: &mut [f32]) {
        let &AttentionShape { heads, kv_heads, head_dim, value_dim, scale, .. } = self.shape;
        let &AttentionShape { softcap, window, keys, .. } = self.shape;
        let kv = head * kv_heads / heads;
        let first = window.first_key(keys - 1);
        let mut scores = vec![0.0; keys - first];
        let width = kv_heads * head_dim;
        self.isa.run(Scores {
            q: &self.q[head * head_dim..][..head_dim],
            keys: &self.k[first * width + kv * head_dim..],
            width,
            scale,
            scores: &mut scores,
        });
        let key_bias = key_bias.map(|bias| &bias[first..]);
        self.isa.run(Softmax { row: &mut scores, softcap, key_bias, sink });
        let width = kv_heads * value_dim;
        let values = &self.v[first * width + kv * value_dim..];
        self.isa.run(Sum { weights: &scores, values, width, out });
    }
}

/// `scores[i] = scale · q · keys[i]`; a key begins every `width` numbers.
struct Scores<'a> {
    q: &'a [f32],
    keys: &'a [f32],
    width: usize,
    scale: f32,
    scores: &'a mut [f32],
}

impl Kernel for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (score, key) in self.scores.iter_mut().zip(self.keys.chunks(self.width)) {
            *score = self.scale * dot::<FMA, 32>(self.q, &key[..self.q.len()]);
        }
    }
}

/// `out = Σ weights[i] · values[i]`; a value begins every `width` numbers.
struct Sum<'a> {
    weights: &'a [f32],
    values: &'a [f32],
    width: usize,
    out: &'a mut [f32],
}

impl Kernel for Sum<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        self.out.fill(0.0);
        for (&weight, value) in self.weights.iter().zip(self.values.chunks(self.width)) {
            for (out, &value) in self.out.iter_mut().zip(value) {
                *out = mul_add::<FMA>(weight, value, *out);
            }
        }
    }
}
