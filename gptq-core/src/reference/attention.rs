//! Attention, one query of one head at a time.

use ndarray::{Array2, s};

use crate::{AttentionShape, ScoreTerms};

pub(super) fn attention(
    q: &Array2<f32>,
    k: &Array2<f32>,
    v: &Array2<f32>,
    shape: &AttentionShape,
    terms: ScoreTerms<'_, Array2<f32>>,
) -> Array2<f32> {
    let &AttentionShape { heads, kv_heads, head_dim, value_dim, scale, keys, .. } = shape;
    let length = q.nrows() / shape.texts;
    let before = keys - length;
    let mut out = Array2::zeros((q.nrows(), heads * value_dim));
    for h in 0..heads {
        let kv = h * kv_heads / heads;
        for t in 0..q.nrows() {
            let position = before + t % length;
            let seen = shape.window.first_key(position)..position + 1;
            let own = t / length * keys;
            let rows = own + seen.start..own + seen.end;
            let q = q.slice(s![t, h * head_dim..(h + 1) * head_dim]);
            let k = k.slice(s![rows.clone(), kv * head_dim..(kv + 1) * head_dim]);
            let v = v.slice(s![rows, kv * value_dim..(kv + 1) * value_dim]);

            let mut scores = k.dot(&q) * scale;
            if let Some(cap) = shape.softcap {
                scores.mapv_inplace(|x| cap * (x / cap).tanh());
            }
            if let Some(bias) = terms.key_bias {
                scores += &bias.slice(s![h, seen]);
            }
            let sink = terms.sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[(0, h)]);
            let top = scores.fold(sink, |m, &x| m.max(x));
            let weights = scores.mapv(|x| (x - top).exp());
            let mixed = v.t().dot(&weights) / (weights.sum() + (sink - top).exp());
            out.slice_mut(s![t, h * value_dim..(h + 1) * value_dim]).assign(&mixed);
        }
    }
    out
}
