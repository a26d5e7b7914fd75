//! `X = L⁻¹` of a lower triangular L, blocked and in place.

use ndarray::{Array2, ArrayView2, s};
use rayon::prelude::*;

use super::PANEL;
use crate::Linalg;

/// Overwrites `l` by the inverse of its lower triangle and zeroes what lies above.
///
/// Row block `i` of X follows from the row blocks above it:
/// `X[i, j] = -L[i, i]⁻¹ · Σ_{j ≤ k < i} L[i, k] · X[k, j]`.
pub(super) fn lower<L: Linalg + ?Sized>(
    linalg: &L,
    l: &mut Array2<f32>,
    diagonal_inverses: &[Array2<f32>],
) {
    for (block, inverse) in diagonal_inverses.iter().enumerate() {
        let start = block * PANEL;
        let end = start + inverse.nrows();
        let (above, row) = l.view().split_at(ndarray::Axis(0), start);
        let finished: Vec<Array2<f32>> = (0..block)
            .into_par_iter()
            .map(|j| {
                let columns = j * PANEL..(j + 1) * PANEL;
                let mut sum = Array2::zeros((end - start, PANEL));
                linalg.gemm(
                    1.0,
                    row.slice(s![..end - start, columns.start..start]),
                    above.slice(s![columns.start.., columns]),
                    sum.view_mut(),
                );
                let mut x = Array2::zeros(sum.dim());
                linalg.gemm(-1.0, inverse.view(), sum.view(), x.view_mut());
                x
            })
            .collect();
        for (j, x) in finished.iter().enumerate() {
            l.slice_mut(s![start..end, j * PANEL..(j + 1) * PANEL]).assign(x);
        }
        l.slice_mut(s![start..end, start..end]).assign(inverse);
        l.slice_mut(s![start..end, end..]).fill(0.0);
    }
}

/// The inverse of one diagonal block by forward substitution, zeros above the diagonal.
pub(super) fn invert_small(l: ArrayView2<'_, f32>) -> Array2<f32> {
    let n = l.nrows();
    let mut x = Array2::zeros((n, n));
    for j in 0..n {
        x[(j, j)] = 1.0 / l[(j, j)];
        for i in j + 1..n {
            let sum: f64 = (j..i).map(|k| f64::from(l[(i, k)]) * f64::from(x[(k, j)])).sum();
            x[(i, j)] = (-sum / f64::from(l[(i, i)])) as f32;
        }
    }
    x
}
