//! What inputs sum up to: `h += xᵀ · x`, of which the upper triangle is half the work, and
//! `d += (native − x)ᵀ · x`.

use ndarray::{Array2, s};
use rayon::prelude::*;

use super::{
    bf16::{self, Packed, Side},
    gemm::{product, tiles},
    isa::Isa,
};

/// Channels per side of a task's tile.
const SIDE: usize = 256;

pub(crate) fn accumulate_gram(isa: Isa, in_bf16: bool, h: &mut Array2<f32>, x: &Array2<f32>) {
    if in_bf16 {
        let [left, right] = [Side::Left, Side::Right].map(|side| Packed::new(isa, x.t(), side));
        bf16::multiply(isa, &left, &right, h.view_mut(), true, |block| block.column >= block.row);
        return;
    }
    let upper = tiles(h.view_mut(), SIDE, SIDE).into_par_iter().filter(|t| t.column >= t.row);
    upper.for_each(|tile| {
        let (rows, columns) = tile.view.dim();
        let left = x.slice(s![.., tile.row..tile.row + rows]);
        let right = x.slice(s![.., tile.column..tile.column + columns]);
        product(isa, 1.0, left.t(), right, tile.view, true);
    });
}

pub(crate) fn accumulate_cross(
    isa: Isa,
    in_bf16: bool,
    d: &mut Array2<f32>,
    native: &Array2<f32>,
    x: &Array2<f32>,
) {
    assert_eq!(native.dim(), x.dim(), "cross moment: native inputs have another shape");
    if in_bf16 {
        bf16::product(isa, (native - x).t(), x.view(), d.view_mut(), true);
        return;
    }
    tiles(d.view_mut(), SIDE, SIDE).into_par_iter().for_each(|tile| {
        let (rows, columns) = tile.view.dim();
        let channels = s![.., tile.row..tile.row + rows];
        let difference = &native.slice(channels) - &x.slice(channels);
        let right = x.slice(s![.., tile.column..tile.column + columns]);
        product(isa, 1.0, difference.t(), right, tile.view, true);
    });
}
