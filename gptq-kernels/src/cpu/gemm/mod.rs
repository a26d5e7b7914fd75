//! Products of f32 matrices, and the cutting of a matrix into tiles.
//!
//! Operands are packed into strips that a micro-kernel reads from front to back; `DEPTH` values along
//! k at a time, so that a strip of `b` stays in the nearest cache while the strips of `a` pass.

mod kernel;
mod pack;
mod shared;

use ndarray::{ArrayView2, ArrayViewMut2, Axis, s};

use super::isa::Isa;
use kernel::MicroKernel;
pub(crate) use shared::multiply;

/// Values along k between two visits of the result.
const DEPTH: usize = 256;

/// Rows of `a` that are packed together, whole strips of any kernel: 96 KiB of them.
const HEIGHT: usize = 96;

/// Columns of `b` that are packed together: 1 MiB of them.
const WIDTH: usize = 1024;

/// `c = alpha · a · b` or `c += alpha · a · b`, on the calling thread, for any strides.
///
/// Panics if the shapes do not fit: the caller's bug.
pub(crate) fn product(
    isa: Isa,
    alpha: f32,
    a: ArrayView2<'_, f32>,
    b: ArrayView2<'_, f32>,
    mut c: ArrayViewMut2<'_, f32>,
    accumulate: bool,
) {
    let ((m, k), n) = (a.dim(), b.ncols());
    assert_eq!(b.nrows(), k, "product: inner dimensions differ");
    assert_eq!(c.dim(), (m, n), "product: result has another shape");
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 && !accumulate {
        c.fill(0.0);
    }
    if n > 1 && c.strides()[1] != 1 {
        if c.strides()[0] == 1 {
            return product(isa, alpha, b.t(), a.t(), c.reversed_axes(), accumulate);
        }
        let mut rows = if accumulate { c.to_owned() } else { ndarray::Array2::zeros((m, n)) };
        product(isa, alpha, a, b, rows.view_mut(), accumulate);
        c.assign(&rows);
        return;
    }
    let kernel = MicroKernel::best(isa);
    let (height, width) = kernel.strips();
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for column in (0..n).step_by(WIDTH) {
        let columns = column..n.min(column + WIDTH);
        for depth in (0..k).step_by(DEPTH) {
            let inner = depth..k.min(depth + DEPTH);
            let b = b.slice(s![inner.clone(), columns.clone()]);
            pack::pack(isa, b.t(), width, 1.0, &mut right);
            for row in (0..m).step_by(HEIGHT) {
                let rows = row..m.min(row + HEIGHT);
                let a = a.slice(s![rows.clone(), inner.clone()]);
                pack::pack(isa, a, height, alpha, &mut left);
                let c = c.slice_mut(s![rows, columns.clone()]);
                kernel.block(&left, &right, inner.len(), c, accumulate || depth > 0);
            }
        }
    }
}

/// A tile of a matrix with the row and column where it begins.
pub(crate) struct Tile<'a> {
    pub(crate) row: usize,
    pub(crate) column: usize,
    pub(crate) view: ArrayViewMut2<'a, f32>,
}

/// Cuts a matrix into tiles of at most `rows` × `columns`. Sizes are the caller's constants, never
/// a function of the number of threads: that is what keeps results reproducible.
pub(crate) fn tiles(a: ArrayViewMut2<'_, f32>, rows: usize, columns: usize) -> Vec<Tile<'_>> {
    let mut out = Vec::with_capacity(a.nrows().div_ceil(rows) * a.ncols().div_ceil(columns));
    for (i, band) in strips(a, Axis(0), rows).into_iter().enumerate() {
        for (j, view) in strips(band, Axis(1), columns).into_iter().enumerate() {
            out.push(Tile { row: i * rows, column: j * columns, view });
        }
    }
    out
}

fn strips(a: ArrayViewMut2<'_, f32>, axis: Axis, size: usize) -> Vec<ArrayViewMut2<'_, f32>> {
    let mut out = Vec::with_capacity(a.len_of(axis).div_ceil(size));
    let mut rest = a;
    while rest.len_of(axis) > size {
        let (head, tail) = rest.split_at(axis, size);
        out.push(head);
        rest = tail;
    }
    if rest.len_of(axis) > 0 {
        out.push(rest);
    }
    out
}
