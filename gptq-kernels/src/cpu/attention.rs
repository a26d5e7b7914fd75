//! Causal softmax attention, a block of queries of one head at a time.

use gptq_core::AttentionShape;
use ndarray::{Array2, s};
use rayon::prelude::*;

use super::{
    exp::exp,
    gemm::{product, tiles},
    isa::{Isa, Kernel},
};

/// Queries per task: enough for a real product, few enough to skip most of what is masked.
const QUERIES: usize = 64;

pub(crate) fn attention(
    isa: Isa,
    q: &Array2<f32>,
    k: &Array2<f32>,
    v: &Array2<f32>,
    shape: &AttentionShape,
) -> Array2<f32> {
    let &AttentionShape { heads, kv_heads, head_dim, scale, keys } = shape;
    assert_eq!(q.ncols(), heads * head_dim, "attention: queries have another width");
    assert!(keys >= q.nrows() && keys <= k.nrows(), "attention: {keys} keys");
    let before = keys - q.nrows();
    let mut out = Array2::zeros(q.dim());
    tiles(out.view_mut(), QUERIES, head_dim).into_par_iter().for_each(|tile| {
        let head = tile.column / head_dim;
        let kv = head * kv_heads / heads * head_dim;
        let queries = tile.view.nrows();
        let visible = before + tile.row + queries;
        let q = q.slice(s![tile.row..tile.row + queries, tile.column..tile.column + head_dim]);
        let k = k.slice(s![..visible, kv..kv + head_dim]);
        let v = v.slice(s![..visible, kv..kv + head_dim]);

        let mut scores = Array2::zeros((queries, visible));
        product(scale, q, k.t(), scores.view_mut(), false);
        for (i, mut row) in scores.rows_mut().into_iter().enumerate() {
            let row = row.as_slice_mut().expect("rows of a fresh array");
            let (open, masked) = row.split_at_mut(before + tile.row + i + 1);
            isa.run(Softmax { row: open });
            masked.fill(0.0);
        }
        product(1.0, scores.view(), v, tile.view, false);
    });
    out
}

struct Softmax<'a> {
    row: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        const LANES: usize = 16;
        let mut tops = [f32::NEG_INFINITY; LANES];
        for chunk in self.row.chunks(LANES) {
            for (top, x) in tops.iter_mut().zip(chunk) {
                *top = if *x > *top { *x } else { *top };
            }
        }
        let top = tops.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        let mut sums = [0f32; LANES];
        for chunk in self.row.chunks_mut(LANES) {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *x = exp::<FMA>(*x - top);
                *sum += *x;
            }
        }
        let total = 1.0 / sums.iter().sum::<f32>();
        for x in self.row {
            *x *= total;
        }
    }
}
