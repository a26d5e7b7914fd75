//! From a Hessian to the factor that the column loop reads, in the upper triangle of one matrix.
//!
//! ```text
//! H = R Rᵀ       factor.rs     1/3 n³     R upper triangular: Cholesky from the last column back
//! U = R⁻¹        inverse.rs    1/3 n³     because H⁻¹ = R⁻ᵀ R⁻¹ = Uᵀ U
//! ```
//!
//! Inverting H and factoring the inverse would cost twice as much and lose digits twice. R is the
//! usual factor of H with the order of its columns reversed, reversed again.
//!
//! Both halve the matrix until [`LEAF`] columns are left, so nearly all the work is in products of
//! large blocks, which [`strips`] of fixed size hand to threads. Neither reads or
//! writes what is below the diagonal.

mod factor;
mod inverse;
#[cfg(feature = "lapack")]
mod lapack;
mod leaf;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use crate::{Error, Linalg};
#[cfg(feature = "lapack")]
pub use lapack::Lapack;

/// Columns of a diagonal block that is not halved any further.
const LEAF: usize = 64;

/// Rows or columns per task.
const STRIP: usize = 256;

/// See [`Linalg::inverse_factor`].
pub(crate) fn inverse_factor<L: Linalg + ?Sized>(
    linalg: &L,
    h: &mut Array2<f32>,
) -> Result<(), Error> {
    let mut inverses = vec![Array2::zeros((0, 0)); h.nrows().div_ceil(LEAF)];
    factor::upper(linalg, h.view_mut(), &mut inverses)?;
    inverse::upper(linalg, h.view_mut(), &inverses);
    Ok(())
}

/// How many of n columns come into the first half: whole leaves.
fn half(n: usize) -> usize {
    n.div_ceil(2).next_multiple_of(LEAF)
}

/// The three blocks of an upper triangle halved at `at`: above left, above right, below right.
fn blocks(a: ArrayViewMut2<'_, f32>, at: usize) -> [ArrayViewMut2<'_, f32>; 3] {
    let (above, below) = a.split_at(Axis(0), at);
    let (left, right) = above.split_at(Axis(1), at);
    [left, right, below.split_at(Axis(1), at).1]
}

/// The same to read.
fn blocks_of(a: ArrayView2<'_, f32>, at: usize) -> [ArrayView2<'_, f32>; 3] {
    let (above, below) = a.split_at(Axis(0), at);
    let (left, right) = above.split_at(Axis(1), at);
    [left, right, below.split_at(Axis(1), at).1]
}

/// Hands out strips of a matrix along an axis.
fn strips(
    mut a: ArrayViewMut2<'_, f32>,
    axis: Axis,
    work: impl Fn(usize, ArrayViewMut2<'_, f32>) + Sync,
) {
    let strips: Vec<_> = a.axis_chunks_iter_mut(axis, STRIP).enumerate().collect();
    strips.into_par_iter().for_each(|(i, strip)| work(i * STRIP, strip));
}

/// `x = x · m` for a square m of a leaf's size.
fn times<L: Linalg + ?Sized>(linalg: &L, mut x: ArrayViewMut2<'_, f32>, m: ArrayView2<'_, f32>) {
    let copy = x.to_owned();
    x.fill(0.0);
    linalg.gemm(1.0, copy.view(), m, x);
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};

    use crate::{Error, Linalg, Portable};

    fn spd(n: usize) -> Array2<f32> {
        let a = Array2::from_shape_fn((n + 3, n), |(i, j)| {
            ((i * 7919 + j * 104_729 + i * j * 31) % 1000) as f32 / 500.0 - 1.0
        });
        a.t().dot(&a) + Array2::<f32>::eye(n)
    }

    #[test]
    fn factor_satisfies_its_identity() {
        // Sizes around those of leaves and strips, where blocking can go wrong.
        for n in [1, 2, 5, 63, 64, 65, 127, 128, 129, 300, 520, 577] {
            let h = spd(n);
            let mut u = h.clone();
            Portable.inverse_factor(&mut u).unwrap();
            for i in 0..n {
                assert!(u[(i, i)] > 0.0);
                for j in 0..i {
                    assert_eq!(u[(i, j)], h[(i, j)], "below the diagonal at ({i}, {j}) of {n}");
                    u[(i, j)] = 0.0;
                }
            }
            let identity = u.t().dot(&u).dot(&h);
            let worst = (&identity - &Array2::<f32>::eye(n)).fold(0f32, |m, &e| m.max(e.abs()));
            assert!(worst < 2e-5 * n as f32 + 1e-5, "n = {n}: {worst}");
        }
    }

    #[test]
    fn names_the_column_of_a_bad_pivot() {
        let mut h = array![[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0f32]];
        // Factored from the last column backwards, column 0 is where positivity ends.
        let error = Portable.inverse_factor(&mut h).unwrap_err();
        assert!(matches!(error, Error::NonPositivePivot { column: 0, .. }), "{error}");
        // Not in the first leaf to be factored, nor at the beginning of one.
        let mut h = spd(300);
        h[(130, 130)] = -1.0;
        let error = Portable.inverse_factor(&mut h).unwrap_err();
        assert!(matches!(error, Error::NonPositivePivot { column: 130, .. }), "{error}");
    }
}
