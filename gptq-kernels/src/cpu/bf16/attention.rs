//! Attention of many queries: scores and sums of values as products of bf16, softmax in f32.

use gptq_core::{AttentionShape, ScoreTerms};
use ndarray::{Array2, ArrayView2, ArrayViewMut2, s};

use super::{
    super::{
        attention::{Head, QUERIES, of_heads, soften},
        gemm::Tile,
        isa::Isa,
        rows::written,
        share::share,
    },
    MicroKernel, Packed, Side, kernel, multiply_block,
    pack::DEPTH,
};

/// As `attention::attention`, for texts of at least some queries.
pub(crate) fn attention(
    isa: Isa,
    q: &Array2<f32>,
    k: &Array2<f32>,
    v: &Array2<f32>,
    shape: &AttentionShape,
    terms: ScoreTerms<'_, Array2<f32>>,
) -> Array2<f32> {
    let kernel = kernel::best(isa).expect("asked for before");
    let length = q.nrows() / shape.texts;
    let heads = |out: ArrayViewMut2<'_, f32>| {
        let heads = of_heads(out, length, length, shape.value_dim);
        share(heads, |(text, tile): (usize, Tile<'_>)| {
            let head = Head::new(tile.column / shape.value_dim, text, length, shape, terms);
            attend(isa, kernel, &head, head.of(q, k, v), tile.view);
        });
    };
    // SAFETY: every head of every text is a product that is written and not read.
    unsafe { written((q.nrows(), shape.heads * shape.value_dim), heads) }
}

/// One head of one text.
fn attend(
    isa: Isa,
    kernel: MicroKernel,
    head: &Head<'_>,
    [q, k, v]: [ArrayView2<'_, f32>; 3],
    mut out: ArrayViewMut2<'_, f32>,
) {
    let keys = Packed::here(isa, k, Side::Right);
    let values = Packed::here(isa, v.t(), Side::Right);
    for row in (0..q.nrows()).step_by(QUERIES) {
        let rows = row..q.nrows().min(row + QUERIES);
        let seen = head.seen_by(rows.clone());
        // Tiles of values begin at multiples of their depth.
        let first = seen.start / DEPTH * DEPTH;
        let q = q.slice(s![rows.clone(), ..]).mapv(|x| x * head.scale);
        let left = Packed::here(isa, q.view(), Side::Left);
        let product = |view: ArrayViewMut2<'_, f32>| {
            let block = Tile { row: 0, column: first, view };
            multiply_block(kernel, &left, &keys, 0, block, false);
        };
        // SAFETY: one block, written and not read.
        let mut scores = unsafe { written((rows.len(), seen.end - first), product) };
        for (query, row) in rows.clone().zip(scores.rows_mut()) {
            let row = row.into_slice().expect("rows of a fresh array");
            soften(isa, head, query, first, row);
        }
        let weights = Packed::here(isa, scores.view(), Side::Left);
        let block = Tile { row: 0, column: 0, view: out.slice_mut(s![rows, ..]) };
        multiply_block(kernel, &weights, &values, first / DEPTH, block, false);
    }
}
