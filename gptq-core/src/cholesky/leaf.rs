//! One diagonal block, in f64: an f32 pivot of a wide layer loses enough bits to fail a healthy
//! matrix.

use ndarray::{Array2, ArrayViewMut2};

use super::LEAF;
use crate::Error;

/// Rows of a block.
type Square = [[f64; LEAF]; LEAF];

/// Overwrites the upper triangle of `a`, of at most [`LEAF`] columns, with R of `A = R Rᵀ`, and
/// returns R⁻¹ with zeros below the diagonal.
///
/// All inner loops run along rows without depending on each other, so that they become vector
/// instructions.
pub(super) fn factor(mut a: ArrayViewMut2<'_, f32>) -> Result<Array2<f32>, Error> {
    let n = a.nrows();
    let mut r: Square = [[0.0; LEAF]; LEAF];
    for (i, row) in a.rows().into_iter().enumerate() {
        (i..n).for_each(|j| r[i][j] = f64::from(row[j]));
    }
    for j in (0..n).rev() {
        let pivot = r[j][j];
        // Written so that NaN fails too.
        if !(pivot > 0.0 && pivot.is_finite()) {
            return Err(Error::NonPositivePivot { column: j, pivot: pivot as f32 });
        }
        let diagonal = pivot.sqrt();
        r[j][j] = diagonal;
        let mut column = [0f64; LEAF];
        for i in 0..j {
            r[i][j] /= diagonal;
            column[i] = r[i][j];
        }
        for i in 0..j {
            let share = column[i];
            r[i][i..j].iter_mut().zip(&column[i..j]).for_each(|(r, c)| *r -= share * c);
        }
    }
    let mut inverse: Square = [[0.0; LEAF]; LEAF];
    for i in (0..n).rev() {
        let (rows, below) = inverse.split_at_mut(i + 1);
        let row = &mut rows[i];
        row[i] = 1.0;
        for (share, below) in r[i][i + 1..n].iter().zip(&*below) {
            row.iter_mut().zip(below).for_each(|(x, b)| *x -= share * b);
        }
        row.iter_mut().for_each(|x| *x /= r[i][i]);
    }
    for (i, mut row) in a.rows_mut().into_iter().enumerate() {
        (i..n).for_each(|j| row[j] = r[i][j] as f32);
    }
    Ok(Array2::from_shape_fn((n, n), |(i, j)| inverse[i][j] as f32))
}
