//! `A = R Rᵀ` with R upper triangular, by halves and in place.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};

use super::{LEAF, blocks, blocks_of, half, leaf, strips, times};
use crate::{Error, Linalg};

/// Overwrites the upper triangle of `a` with R, and sets the inverse of each leaf.
///
/// ```text
/// A22 = R22 R22ᵀ        R12 = A12 R22⁻ᵀ        A11 − R12 R12ᵀ = R11 R11ᵀ
/// ```
pub(super) fn upper<L: Linalg + ?Sized>(
    linalg: &L,
    a: ArrayViewMut2<'_, f32>,
    inverses: &mut [Array2<f32>],
) -> Result<(), Error> {
    let n = a.nrows();
    if n <= LEAF {
        if let [inverse] = inverses {
            *inverse = leaf::factor(a)?;
        }
        return Ok(());
    }
    let at = half(n);
    let [mut a11, mut a12, mut a22] = blocks(a, at);
    let (first, second) = inverses.split_at_mut(at / LEAF);
    upper(linalg, a22.view_mut(), second).map_err(|e| offset(e, at))?;
    strips(a12.view_mut(), Axis(0), |_, strip| solve(linalg, strip, a22.view(), second));
    strips(a11.view_mut(), Axis(0), |row, mut strip| {
        let rows = row..row + strip.nrows();
        let left = a12.slice(s![rows.clone(), ..]);
        subtract_square(linalg, left, strip.slice_mut(s![.., rows.clone()]));
        let right = a12.slice(s![rows.end.., ..]);
        linalg.gemm(-1.0, left, right.t(), strip.slice_mut(s![.., rows.end..]));
    });
    upper(linalg, a11, first)
}

/// `x = x · R⁻ᵀ`.
fn solve<L: Linalg + ?Sized>(
    linalg: &L,
    x: ArrayViewMut2<'_, f32>,
    r: ArrayView2<'_, f32>,
    inverses: &[Array2<f32>],
) {
    if let [inverse] = inverses {
        return times(linalg, x, inverse.t());
    }
    let at = half(r.nrows());
    let [r11, r12, r22] = blocks_of(r, at);
    let (first, second) = inverses.split_at(at / LEAF);
    let (mut x1, mut x2) = x.split_at(Axis(1), at);
    solve(linalg, x2.view_mut(), r22, second);
    linalg.gemm(-1.0, x2.view(), r12.t(), x1.view_mut());
    solve(linalg, x1, r11, first);
}

/// `c −= a aᵀ` in the upper triangle of c.
fn subtract_square<L: Linalg + ?Sized>(
    linalg: &L,
    a: ArrayView2<'_, f32>,
    mut c: ArrayViewMut2<'_, f32>,
) {
    let n = c.nrows();
    if n <= LEAF {
        let mut square = Array2::zeros((n, n));
        linalg.gemm(1.0, a, a.t(), square.view_mut());
        for i in 0..n {
            (i..n).for_each(|j| c[(i, j)] -= square[(i, j)]);
        }
        return;
    }
    let at = half(n);
    let [c11, c12, c22] = blocks(c, at);
    let (above, below) = a.split_at(Axis(0), at);
    subtract_square(linalg, above, c11);
    linalg.gemm(-1.0, above, below.t(), c12);
    subtract_square(linalg, below, c22);
}

fn offset(error: Error, start: usize) -> Error {
    match error {
        Error::NonPositivePivot { column, pivot } => {
            Error::NonPositivePivot { column: start + column, pivot }
        }
        other => other,
    }
}
