//! A tile: a few rows of a layer, laid out for the column loop.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};

use crate::{InverseFactor, QuantizedMatrix, grid::RowGrids};

/// Rows per tile. Rows are independent given U, so tiles go to threads; fixed, so that results do
/// not depend on how many there are. Fewer would spend more time on laying out U for products,
/// more would leave the caches.
pub(crate) const ROWS: usize = 128;

/// Where a tile's codes, scales and zeros go: its rows of the result.
pub(crate) struct TileOut<'a> {
    codes: ArrayViewMut2<'a, u8>,
    scales: ArrayViewMut2<'a, f32>,
    zeros: ArrayViewMut2<'a, u8>,
}

impl TileOut<'_> {
    /// Grids of a group.
    pub(crate) fn put_grids(&mut self, group: usize, grids: &RowGrids) {
        for (r, (&scale, &zero)) in grids.scales.iter().zip(&grids.zeros).enumerate() {
            self.scales[(r, group)] = scale;
            self.zeros[(r, group)] = zero as u8;
        }
    }

    /// Codes (in × rows); row p of them is column `order[p]` of the layer.
    pub(crate) fn put_codes(&mut self, codes: &Array2<u8>, order: &[usize]) {
        let rows = codes.ncols();
        let codes = codes.as_slice().expect("a fresh array is contiguous");
        for (r, mut row) in self.codes.rows_mut().into_iter().enumerate() {
            let row = row.as_slice_mut().expect("rows of a row-major matrix");
            for (p, &column) in order.iter().enumerate() {
                row[column] = codes[p * rows + r];
            }
        }
    }
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

/// Rows of `w` as columns, so that a column of weights is contiguous: in × rows. Row p of it is
/// column `order[p]` of `w`.
pub(crate) fn columns(w: ArrayView2<'_, f32>, order: &[usize]) -> Array2<f32> {
    /// Rows read side by side: those whose weights of one column fill a cache line.
    const LINE: usize = 16;
    let rows = w.nrows();
    let mut tile = Array2::zeros((order.len(), rows));
    let to = tile.as_slice_mut().expect("a fresh array is contiguous");
    for first in (0..rows).step_by(LINE) {
        let w = w.slice(s![first..(first + LINE).min(rows), ..]);
        for (p, &column) in order.iter().enumerate() {
            let to = &mut to[p * rows + first..][..w.nrows()];
            to.iter_mut().zip(w.column(column)).for_each(|(to, w)| *to = *w);
        }
    }
    tile
}

/// Inputs that never fire get zero weights.
pub(crate) fn kill_dead_columns(tile: &mut Array2<f32>, factor: &InverseFactor) {
    for (p, &column) in factor.perm.iter().enumerate() {
        if factor.dead[column] {
            tile.row_mut(p).fill(0.0);
        }
    }
}
