//! Rotary position embedding.

use gptq_core::RopeShape;
use ndarray::{Array2, ArrayView1, ArrayViewMut1, Zip};

use super::rows::SMALL;

pub(crate) fn rope(x: &mut Array2<f32>, cos: &Array2<f32>, sin: &Array2<f32>, shape: RopeShape) {
    let RopeShape { head_dim, offset, interleaved } = shape;
    let half = cos.ncols();
    assert!(offset + 2 * half <= head_dim, "rope: more channels turn than a head has");
    let small = x.len() <= SMALL;
    type Row<'a> = ArrayView1<'a, f32>;
    let turn_row = |mut row: ArrayViewMut1<'_, f32>, cos: Row<'_>, sin: Row<'_>| {
        let row = row.as_slice_mut().expect("tensors are row-major");
        for head in row.chunks_exact_mut(head_dim) {
            let turning = &mut head[offset..offset + 2 * half];
            if interleaved {
                for ((pair, &c), &s) in turning.chunks_exact_mut(2).zip(cos).zip(sin) {
                    (pair[0], pair[1]) = turn(pair[0], pair[1], c, s);
                }
            } else {
                let (first, second) = turning.split_at_mut(half);
                for (((a, b), &c), &s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                    (*a, *b) = turn(*a, *b, c, s);
                }
            }
        }
    };
    let rows = Zip::from(x.rows_mut()).and(cos.rows()).and(sin.rows());
    if small {
        rows.for_each(turn_row);
    } else {
        rows.par_for_each(turn_row);
    }
}

#[inline(always)]
fn turn(a: f32, b: f32, cos: f32, sin: f32) -> (f32, f32) {
    (a * cos - b * sin, b * cos + a * sin)
}
