//! The one door to the `gemm` crate, and the cutting of a matrix into tiles.

use gemm::Parallelism;
use ndarray::{ArrayView2, ArrayViewMut2, Axis};

/// `c = a · b` or `c += alpha · a · b`, on the calling thread, for any strides.
///
/// Panics if the shapes do not fit: the caller's bug.
pub(crate) fn product(
    alpha: f32,
    a: ArrayView2<'_, f32>,
    b: ArrayView2<'_, f32>,
    mut c: ArrayViewMut2<'_, f32>,
    accumulate: bool,
) {
    let ((m, k), n) = (a.dim(), b.ncols());
    assert_eq!(b.nrows(), k, "product: inner dimensions differ");
    assert_eq!(c.dim(), (m, n), "product: result has another shape");
    let (ca, cb, cc) = (strides(a.strides()), strides(b.strides()), strides(c.strides()));
    // SAFETY: the three views describe live memory of the shapes asserted above with these
    // strides, `c` is borrowed mutably and therefore overlaps neither operand, and with
    // `read_dst` false `c` is only written.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            cc.1,
            cc.0,
            accumulate,
            a.as_ptr(),
            ca.1,
            ca.0,
            b.as_ptr(),
            cb.1,
            cb.0,
            1.0,
            alpha,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

fn strides(s: &[isize]) -> (isize, isize) {
    (s[0], s[1])
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
