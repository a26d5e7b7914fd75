//! What inputs sum up to: `h += xᵀ · x`, of which the upper triangle is half the work, and
//! `d += (native − x)ᵀ · x`.

use ndarray::Array2;

use super::{
    bf16::{self, Packed},
    gemm::{Tile, multiply},
    isa::Isa,
};

pub(crate) fn accumulate_gram(isa: Isa, in_bf16: bool, h: &mut Array2<f32>, x: &Array2<f32>) {
    let upper = |tile: &Tile<'_>| tile.column + tile.view.ncols() > tile.row;
    if in_bf16 {
        let [left, right] = Packed::both(isa, x.t());
        // Small blocks waste less along the diagonal, large ones read less.
        let block = if x.ncols() < 4096 { 128 } else { bf16::block(isa) };
        bf16::multiply(&left, &right, block, h.view_mut(), true, upper);
        return;
    }
    multiply(isa, x.t(), x.view(), h.view_mut(), true, upper);
}

pub(crate) fn accumulate_cross(
    isa: Isa,
    in_bf16: bool,
    d: &mut Array2<f32>,
    native: &Array2<f32>,
    x: &Array2<f32>,
) {
    assert_eq!(native.dim(), x.dim(), "cross moment: native inputs have another shape");
    let difference = native - x;
    if in_bf16 {
        bf16::product(isa, difference.t(), x.view(), d.view_mut(), true);
    } else {
        multiply(isa, difference.t(), x.view(), d.view_mut(), true, |_| true);
    }
}
