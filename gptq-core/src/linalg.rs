//! The dense product the solver stands on: [`Linalg`], and [`Portable`], its plain definition.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, linalg::general_mat_mul};

use crate::{Error, Loop, cholesky};

/// What the solver needs from linear algebra. Implementations differ in speed, never in meaning.
///
/// [`Linalg::gemm`] runs on the calling thread: the solver splits its work into tiles of fixed
/// size and hands those to the caller's rayon pool, so that results do not depend on the number
/// of threads.
pub trait Linalg: Sync {
    /// `c += alpha · a · b` for any strides; `a` is m × k, `b` is k × n, `c` is m × n.
    fn gemm(
        &self,
        alpha: f32,
        a: ArrayView2<'_, f32>,
        b: ArrayView2<'_, f32>,
        c: ArrayViewMut2<'_, f32>,
    );

    /// Runs one of the solver's inner loops, which bring their definition along. Worth overriding
    /// with a call from a function compiled for the vector instructions of the CPU at hand.
    fn run(&self, work: Loop<'_>) {
        work.run();
    }

    /// Replaces the upper triangle of a symmetric positive definite `h` (n × n) by the upper
    /// triangular U with positive diagonal and `h⁻¹ = Uᵀ U`. What lies below the diagonal is
    /// neither read nor written.
    ///
    /// # Errors
    /// [`Error::NonPositivePivot`] names the column; the upper triangle is then undefined.
    ///
    /// Costs 2/3 n³ flops.
    fn inverse_factor(&self, h: &mut Array2<f32>) -> Result<(), Error> {
        cholesky::inverse_factor(self, h)
    }
}

/// Pure Rust, any CPU: `ndarray`'s own product.
#[derive(Clone, Copy, Debug, Default)]
pub struct Portable;

impl Linalg for Portable {
    fn gemm(
        &self,
        alpha: f32,
        a: ArrayView2<'_, f32>,
        b: ArrayView2<'_, f32>,
        mut c: ArrayViewMut2<'_, f32>,
    ) {
        general_mat_mul(alpha, &a, &b, 1.0, &mut c);
    }
}
