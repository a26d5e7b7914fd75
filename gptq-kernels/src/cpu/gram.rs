//! `h += xᵀ · x`, upper triangle: half of the work of a full product.

use ndarray::{Array2, s};
use rayon::prelude::*;

use super::gemm::{product, tiles};

/// Channels per side of a task's tile.
const SIDE: usize = 256;

pub(crate) fn accumulate_gram(h: &mut Array2<f32>, x: &Array2<f32>) {
    let upper = tiles(h.view_mut(), SIDE, SIDE).into_par_iter().filter(|t| t.column >= t.row);
    upper.for_each(|tile| {
        let (rows, columns) = tile.view.dim();
        let left = x.slice(s![.., tile.row..tile.row + rows]);
        let right = x.slice(s![.., tile.column..tile.column + columns]);
        product(1.0, left.t(), right, tile.view, true);
    });
}
