//! `U = R⁻¹` of an upper triangular R, by halves and in place.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis};

use super::{LEAF, blocks, blocks_of, half, strips, times};
use crate::Linalg;

/// Overwrites the upper triangle of `a`, R, with its inverse; `inverses` are those of its leaves.
///
/// ```text
/// U11 = R11⁻¹        U22 = R22⁻¹        U12 = −U11 R12 U22
/// ```
pub(super) fn upper<L: Linalg + ?Sized>(
    linalg: &L,
    mut a: ArrayViewMut2<'_, f32>,
    inverses: &[Array2<f32>],
) {
    if let [inverse] = inverses {
        for (i, row) in inverse.rows().into_iter().enumerate() {
            (i..row.len()).for_each(|j| a[(i, j)] = row[j]);
        }
        return;
    }
    let n = a.nrows();
    if n == 0 {
        return;
    }
    let at = half(n);
    let [mut a11, mut a12, mut a22] = blocks(a, at);
    let (first, second) = inverses.split_at(at / LEAF);
    upper(linalg, a11.view_mut(), first);
    upper(linalg, a22.view_mut(), second);
    strips(a12.view_mut(), Axis(0), |_, mut strip| {
        strip.mapv_inplace(|x| -x);
        right(linalg, strip, a22.view(), second);
    });
    strips(a12, Axis(1), |_, strip| left(linalg, a11.view(), first, strip));
}

/// `x = U · x`.
fn left<L: Linalg + ?Sized>(
    linalg: &L,
    u: ArrayView2<'_, f32>,
    leaves: &[Array2<f32>],
    x: ArrayViewMut2<'_, f32>,
) {
    if let [leaf] = leaves {
        return times(linalg, x.reversed_axes(), leaf.t());
    }
    let at = half(u.nrows());
    let [u11, u12, u22] = blocks_of(u, at);
    let (first, second) = leaves.split_at(at / LEAF);
    let (mut x1, x2) = x.split_at(Axis(0), at);
    left(linalg, u11, first, x1.view_mut());
    linalg.gemm(1.0, u12, x2.view(), x1);
    left(linalg, u22, second, x2);
}

/// `x = x · U`.
fn right<L: Linalg + ?Sized>(
    linalg: &L,
    x: ArrayViewMut2<'_, f32>,
    u: ArrayView2<'_, f32>,
    leaves: &[Array2<f32>],
) {
    if let [leaf] = leaves {
        return times(linalg, x, leaf.view());
    }
    let at = half(u.nrows());
    let [u11, u12, u22] = blocks_of(u, at);
    let (first, second) = leaves.split_at(at / LEAF);
    let (x1, mut x2) = x.split_at(Axis(1), at);
    right(linalg, x2.view_mut(), u22, second);
    linalg.gemm(1.0, x1.view(), u12, x2);
    right(linalg, x1, u11, first);
}
