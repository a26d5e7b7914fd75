//! From a Hessian to the factor that the column loop reads.
//!
//! With J the matrix that reverses an order, three steps give the upper factor U of `H⁻¹ = Uᵀ U`:
//!
//! ```text
//! J H J = L Lᵀ        factor.rs    1/3 n³
//! X     = L⁻¹         inverse.rs   1/3 n³
//! U     = J X J       because H⁻¹ = J Xᵀ X J = (J X J)ᵀ (J X J), and J X J is upper triangular
//! ```
//!
//! Inverting H and factoring the inverse would cost twice as much and lose digits twice.

mod factor;
mod inverse;
#[cfg(feature = "lapack")]
mod lapack;

use ndarray::Array2;

use crate::{Error, Linalg};
#[cfg(feature = "lapack")]
pub use lapack::Lapack;

/// Columns per panel: large enough for matrix products to dominate, small enough for L2.
const PANEL: usize = 128;

/// See [`Linalg::inverse_factor`].
pub(crate) fn inverse_factor<L: Linalg + ?Sized>(
    linalg: &L,
    h: &mut Array2<f32>,
) -> Result<(), Error> {
    let n = h.nrows();
    reverse_both_axes(h);
    let diagonal_inverses = factor::lower(linalg, h).map_err(|e| unreverse_column(e, n))?;
    inverse::lower(linalg, h, &diagonal_inverses);
    reverse_both_axes(h);
    Ok(())
}

/// `J A J`: in row-major order, the reversed buffer.
fn reverse_both_axes(a: &mut Array2<f32>) {
    match a.as_slice_mut() {
        Some(buffer) => buffer.reverse(),
        None => {
            a.invert_axis(ndarray::Axis(0));
            a.invert_axis(ndarray::Axis(1));
        }
    }
}

fn unreverse_column(error: Error, n: usize) -> Error {
    match error {
        Error::NonPositivePivot { column, pivot } => {
            Error::NonPositivePivot { column: n - 1 - column, pivot }
        }
        other => other,
    }
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
        // Sizes around the panel width, where blocking can go wrong.
        for n in [1, 2, 5, 127, 128, 129, 300] {
            let h = spd(n);
            let mut u = h.clone();
            Portable.inverse_factor(&mut u).unwrap();
            for i in 0..n {
                assert!(u[(i, i)] > 0.0);
                for j in 0..i {
                    assert_eq!(u[(i, j)], 0.0, "lower triangle at ({i}, {j}) of {n}");
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
    }
}
