//! Causal softmax attention, a block of queries of one head at a time.

use gptq_core::{AttentionShape, ScoreTerms};
use ndarray::{Array2, s};
use rayon::prelude::*;

use super::{
    exp::{exp, tanh},
    gemm::{product, tiles},
    isa::{Isa, Kernel},
    rows::row_major,
};

/// Queries per task: enough for a real product, few enough to skip most of what is masked.
const QUERIES: usize = 64;

pub(crate) fn attention(
    isa: Isa,
    q: &Array2<f32>,
    k: &Array2<f32>,
    v: &Array2<f32>,
    shape: &AttentionShape,
    terms: ScoreTerms<'_, Array2<f32>>,
) -> Array2<f32> {
    let &AttentionShape { heads, kv_heads, head_dim, value_dim, scale, softcap, window, keys } =
        shape;
    assert_eq!(q.ncols(), heads * head_dim, "attention: queries have another width");
    assert!(keys >= q.nrows() && keys <= k.nrows(), "attention: {keys} keys");
    let before = keys - q.nrows();
    let key_bias = terms.key_bias.map(|bias| (row_major(bias), bias.ncols()));
    let sinks = terms.sinks.map(row_major);
    let mut out = Array2::zeros((q.nrows(), heads * value_dim));
    tiles(out.view_mut(), QUERIES, value_dim).into_par_iter().for_each(|tile| {
        let head = tile.column / value_dim;
        let kv = head * kv_heads / heads;
        let queries = tile.view.nrows();
        // What the first query no longer sees, and what the last does not see yet, nobody does.
        let start = before + tile.row;
        let (first, end) = (window.first_key(start), start + queries);
        let channels = head * head_dim..(head + 1) * head_dim;
        let q = q.slice(s![tile.row..tile.row + queries, channels]);
        let k = k.slice(s![first..end, kv * head_dim..(kv + 1) * head_dim]);
        let v = v.slice(s![first..end, kv * value_dim..(kv + 1) * value_dim]);
        let key_bias = key_bias.map(|(all, width)| &all[head * width..][first..end]);
        let sink = sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[head]);

        let mut scores = Array2::zeros((queries, end - first));
        product(scale, q, k.t(), scores.view_mut(), false);
        for (i, mut row) in scores.rows_mut().into_iter().enumerate() {
            let row = row.as_slice_mut().expect("rows of a fresh array");
            let seen = window.first_key(start + i) - first..start + i + 1 - first;
            row[..seen.start].fill(0.0);
            row[seen.end..].fill(0.0);
            let key_bias = key_bias.map(|bias| &bias[seen.clone()]);
            isa.run(Softmax { row: &mut row[seen], softcap, key_bias, sink });
        }
        product(1.0, scores.view(), v, tile.view, false);
    });
    out
}

struct Softmax<'a> {
    row: &'a mut [f32],
    softcap: Option<f32>,
    key_bias: Option<&'a [f32]>,
    /// One more score, without an entry of the row; minus infinity where there is none.
    sink: f32,
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        const LANES: usize = 16;
        if let Some(cap) = self.softcap {
            for x in self.row.iter_mut() {
                *x = cap * tanh::<FMA>(*x / cap);
            }
        }
        if let Some(bias) = self.key_bias {
            for (x, b) in self.row.iter_mut().zip(bias) {
                *x += b;
            }
        }
        let mut tops = [f32::NEG_INFINITY; LANES];
        for chunk in self.row.chunks(LANES) {
            for (top, x) in tops.iter_mut().zip(chunk) {
                *top = if *x > *top { *x } else { *top };
            }
        }
        let top = tops.iter().fold(self.sink, |a, &b| a.max(b));
        let mut sums = [0f32; LANES];
        for chunk in self.row.chunks_mut(LANES) {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *x = exp::<FMA>(*x - top);
                *sum += *x;
            }
        }
        let total = 1.0 / (sums.iter().sum::<f32>() + exp::<FMA>(self.sink - top));
        for x in self.row {
            *x *= total;
        }
    }
}
