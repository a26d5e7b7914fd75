//! Sums, and the moving of rows and columns.

use std::ops::Range;

use ndarray::{Array2, ArrayViewMut2, Axis, Zip, s};
use rayon::prelude::*;

use super::gemm::tiles;

/// Up to this many elements, work is done before another thread has woken up.
pub(crate) const SMALL: usize = 32 * 1024;

/// A matrix that `write` fills, of memory that nobody cleared.
///
/// # Safety
/// `write` must write every element before it reads it.
pub(crate) unsafe fn written(
    shape: (usize, usize),
    write: impl FnOnce(ArrayViewMut2<'_, f32>),
) -> Array2<f32> {
    let mut out = Array2::<f32>::uninit(shape);
    // SAFETY: the same memory, seen as what will be there; the caller reads nothing before that.
    write(unsafe { out.raw_view_mut().cast::<f32>().deref_into_view_mut() });
    // SAFETY: the caller has written every element.
    unsafe { out.assume_init() }
}

/// Columns per task of a sum into scattered rows.
const COLUMNS: usize = 512;

pub(crate) fn row_major(a: &Array2<f32>) -> &[f32] {
    a.as_slice().expect("tensors are row-major")
}

pub(crate) fn add_assign(x: &mut Array2<f32>, y: &Array2<f32>) {
    if x.len() <= SMALL {
        *x += y;
    } else {
        Zip::from(x).and(y).par_for_each(|x, &y| *x += y);
    }
}

pub(crate) fn scale_rows(x: &mut Array2<f32>, factors: &[f32]) {
    assert_eq!(x.nrows(), factors.len(), "scale_rows: one factor per row");
    Zip::from(x.rows_mut()).and(factors).par_for_each(|mut row, &factor| row *= factor);
}

/// Neighbours that stay neighbours are copied together.
pub(crate) fn columns(parts: &[&Array2<f32>], index: &[u32]) -> Array2<f32> {
    let rows = parts.first().map_or(0, |part| part.nrows());
    assert!(parts.iter().all(|part| part.nrows() == rows), "columns: parts differ in rows");
    let mut runs: Vec<(usize, Range<usize>)> = Vec::new();
    for &column in index {
        let (part, column) = locate(parts, column as usize);
        match runs.last_mut() {
            Some((last, run)) if *last == part && run.end == column => run.end += 1,
            _ => runs.push((part, column..column + 1)),
        }
    }
    let mut y = Array2::zeros((rows, index.len()));
    y.axis_iter_mut(Axis(0)).into_par_iter().enumerate().for_each(|(r, mut y)| {
        let mut y = y.as_slice_mut().expect("rows of a fresh array");
        for (part, run) in &runs {
            let width = parts[*part].ncols();
            let (target, rest) = std::mem::take(&mut y).split_at_mut(run.len());
            let row = &row_major(parts[*part])[r * width..(r + 1) * width];
            target.copy_from_slice(&row[run.clone()]);
            y = rest;
        }
    });
    y
}

/// The part in which a column lies, and where in it.
fn locate(parts: &[&Array2<f32>], mut column: usize) -> (usize, usize) {
    let mut part = 0;
    while column >= parts[part].ncols() {
        column -= parts[part].ncols();
        part += 1;
    }
    (part, column)
}

/// Tasks share columns, not rows: those of y may meet in one row of x, and their order counts.
pub(crate) fn scatter_add(x: &mut Array2<f32>, rows: &[u32], weights: &[f32], y: &Array2<f32>) {
    assert_eq!(y.dim(), (rows.len(), x.ncols()), "scatter_add: rows of another shape");
    assert_eq!(y.nrows(), weights.len(), "scatter_add: one weight per row");
    let height = x.nrows().max(1);
    tiles(x.view_mut(), height, COLUMNS).into_par_iter().for_each(|mut tile| {
        let y = y.slice(s![.., tile.column..tile.column + tile.view.ncols()]);
        for ((y, &row), &weight) in y.rows().into_iter().zip(rows).zip(weights) {
            tile.view.row_mut(row as usize).scaled_add(weight, &y);
        }
    });
}

pub(crate) fn gather(table: &Array2<f32>, rows: &[u32]) -> Array2<f32> {
    let rows: Vec<usize> = rows.iter().map(|&r| r as usize).collect();
    table.select(Axis(0), &rows)
}
