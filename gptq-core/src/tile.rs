//! A tile: a few rows of a layer, laid out for the column loop.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};

use crate::{InverseFactor, QuantizedMatrix};

/// Rows per tile. Rows are independent given U, so tiles go to threads; fixed, so that results do
/// not depend on how many there are.
pub(crate) const ROWS: usize = 64;

/// Where a tile's codes, scales and zeros go: its rows of the result.
pub(crate) struct TileOut<'a> {
    pub(crate) codes: ArrayViewMut2<'a, u8>,
    pub(crate) scales: ArrayViewMut2<'a, f32>,
    pub(crate) zeros: ArrayViewMut2<'a, u8>,
}

/// Cuts a layer and its result into tiles.
pub(crate) fn cut<'a>(
    w: ArrayView2<'a, f32>,
    result: &'a mut QuantizedMatrix,
) -> Vec<(ArrayView2<'a, f32>, TileOut<'a>)> {
    (0..w.nrows())
        .step_by(ROWS)
        .map(|r| w.slice_move(s![r..(r + ROWS).min(w.nrows()), ..]))
        .zip(result.codes.axis_chunks_iter_mut(Axis(0), ROWS))
        .zip(result.scales.axis_chunks_iter_mut(Axis(0), ROWS))
        .zip(result.zeros.axis_chunks_iter_mut(Axis(0), ROWS))
        .map(|(((w, codes), scales), zeros)| (w, TileOut { codes, scales, zeros }))
        .collect()
}

/// Rows of `w` as columns, so that a column of weights is contiguous: in × rows.
pub(crate) fn columns(w: ArrayView2<'_, f32>) -> Array2<f32> {
    w.t().as_standard_layout().into_owned()
}

/// The same, in processing order.
pub(crate) fn processing_order(w: ArrayView2<'_, f32>, factor: &InverseFactor) -> Array2<f32> {
    Array2::from_shape_fn((w.ncols(), w.nrows()), |(p, r)| w[(r, factor.perm[p])])
}

/// Inputs that never fire get zero weights.
pub(crate) fn kill_dead_columns(tile: &mut Array2<f32>, factor: &InverseFactor) {
    for (p, &column) in factor.perm.iter().enumerate() {
        if factor.dead[column] {
            tile.row_mut(p).fill(0.0);
        }
    }
}
