//! `A = L Lᵀ`, blocked and in place.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;

use super::{PANEL, inverse::invert_small};
use crate::{Error, Linalg};

/// Overwrites the lower triangle of `a` with its Cholesky factor; what lies above is undefined.
/// Returns the inverse of each diagonal block, which the panels need and the inverse needs again.
pub(super) fn lower<L: Linalg + ?Sized>(
    linalg: &L,
    a: &mut Array2<f32>,
) -> Result<Vec<Array2<f32>>, Error> {
    let n = a.nrows();
    let mut diagonal_inverses = Vec::with_capacity(n.div_ceil(PANEL));
    for start in (0..n).step_by(PANEL) {
        let end = (start + PANEL).min(n);
        factor_small(a.slice_mut(s![start..end, start..end])).map_err(|e| offset(e, start))?;
        let inverse = invert_small(a.slice(s![start..end, start..end]));

        // L21 = A21 · L11⁻ᵀ, then A22 -= L21 · L21ᵀ on and below the diagonal.
        let mut panel = Array2::zeros((n - end, end - start));
        let below = a.slice(s![end.., start..end]);
        rows_in_parallel(panel.view_mut(), |row, chunk| {
            let rows = row..row + chunk.nrows();
            linalg.gemm(1.0, below.slice(s![rows, ..]), inverse.t(), chunk);
        });
        rows_in_parallel(a.slice_mut(s![end.., ..]), |row, mut chunk| {
            let rows = row..row + chunk.nrows();
            let left = panel.slice(s![rows.clone(), ..]);
            chunk.slice_mut(s![.., start..end]).assign(&left);
            let to_diagonal = chunk.slice_mut(s![.., end..end + rows.end]);
            linalg.gemm(-1.0, left, panel.slice(s![..rows.end, ..]).t(), to_diagonal);
        });
        diagonal_inverses.push(inverse);
    }
    Ok(diagonal_inverses)
}

/// Hands out chunks of `PANEL` rows with the index of their first row.
fn rows_in_parallel(
    mut a: ArrayViewMut2<'_, f32>,
    work: impl Fn(usize, ArrayViewMut2<'_, f32>) + Sync,
) {
    let chunks: Vec<_> = a.axis_chunks_iter_mut(Axis(0), PANEL).collect();
    chunks.into_par_iter().enumerate().for_each(|(i, chunk)| work(i * PANEL, chunk));
}

/// The textbook factorisation of one diagonal block.
fn factor_small(mut a: ArrayViewMut2<'_, f32>) -> Result<(), Error> {
    for j in 0..a.nrows() {
        let pivot = f64::from(a[(j, j)]) - dot(a.view(), j, j, j);
        // Written so that NaN fails too.
        if !(pivot > 0.0 && pivot.is_finite()) {
            return Err(Error::NonPositivePivot { column: j, pivot: pivot as f32 });
        }
        let diagonal = pivot.sqrt();
        a[(j, j)] = diagonal as f32;
        for i in j + 1..a.nrows() {
            let rest = f64::from(a[(i, j)]) - dot(a.view(), i, j, j);
            a[(i, j)] = (rest / diagonal) as f32;
        }
    }
    Ok(())
}

/// Sums in f64: an f32 pivot of a wide layer loses enough bits to fail a healthy matrix.
fn dot(a: ArrayView2<'_, f32>, i: usize, j: usize, len: usize) -> f64 {
    (0..len).map(|k| f64::from(a[(i, k)]) * f64::from(a[(j, k)])).sum()
}

fn offset(error: Error, start: usize) -> Error {
    match error {
        Error::NonPositivePivot { column, pivot } => {
            Error::NonPositivePivot { column: start + column, pivot }
        }
        other => other,
    }
}
