//! The same factor from LAPACK.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, s};
use ndarray_linalg::{Cholesky, Diag, SolveTriangular, UPLO, error::LinalgError};

use crate::{Error, Linalg, Portable};

/// [`Linalg`] whose factorisation is LAPACK's `potrf` and `trtrs`, through `ndarray-linalg`.
///
/// OpenBLAS picks its own number of threads, so unlike with [`Portable`] the last bits of a result
/// may depend on it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lapack;

impl Linalg for Lapack {
    fn gemm(
        &self,
        alpha: f32,
        a: ArrayView2<'_, f32>,
        b: ArrayView2<'_, f32>,
        c: ArrayViewMut2<'_, f32>,
    ) {
        Portable.gemm(alpha, a, b, c);
    }

    fn inverse_factor(&self, h: &mut Array2<f32>) -> Result<(), Error> {
        let n = h.nrows();
        // The usual factor of H with its order reversed, reversed again.
        let reversed = h.slice(s![..;-1, ..;-1]).to_owned();
        let l = reversed.t().cholesky(UPLO::Lower).map_err(|e| pivot_error(e, n))?;
        let inverse = l
            .solve_triangular(UPLO::Lower, Diag::NonUnit, &Array2::eye(n))
            .map_err(|e| Error::Backend { message: e.to_string() })?;
        for i in 0..n {
            (i..n).for_each(|j| h[(i, j)] = inverse[(n - 1 - i, n - 1 - j)]);
        }
        Ok(())
    }
}

/// LAPACK counts the failing pivot from one, in the reversed order.
fn pivot_error(error: LinalgError, n: usize) -> Error {
    match error {
        LinalgError::Lapack(lax::error::Error::LapackComputationalFailure { return_code }) => {
            Error::NonPositivePivot {
                column: n.saturating_sub(return_code.unsigned_abs() as usize),
                pivot: f32::NAN,
            }
        }
        other => Error::Backend { message: other.to_string() },
    }
}
