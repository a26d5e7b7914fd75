//! A product on the caller's pool, whose operands are packed once for all tasks.

use ndarray::{ArrayView2, ArrayViewMut2, s};
use rayon::prelude::*;

use super::{
    super::{isa::Isa, share::share},
    DEPTH, Tile,
    kernel::MicroKernel,
    pack::pack,
    tiles,
};

/// Rows of the result per task: whole strips of any kernel, 192 KiB of them for each `DEPTH`.
const HEIGHT: usize = 192;

/// Columns of the result per task: whole strips of any kernel.
const WIDTH: usize = 256;

/// `c = a · b` or `c += a · b` in those tiles that `wanted` keeps; a is m × k, b is k × n, c has rows
/// without gaps.
///
/// Panics if the shapes do not fit: the caller's bug.
pub(crate) fn multiply(
    isa: Isa,
    a: ArrayView2<'_, f32>,
    b: ArrayView2<'_, f32>,
    c: ArrayViewMut2<'_, f32>,
    accumulate: bool,
    wanted: impl Fn(&Tile<'_>) -> bool,
) {
    let kernel = MicroKernel::best(isa);
    assert_eq!((a.nrows(), b.ncols()), c.dim(), "product: result has another shape");
    assert_eq!(a.ncols(), b.nrows(), "product: inner dimensions differ");
    let depth = a.ncols();
    let (height, width) = kernel.strips();
    let left = pieces(isa, a, HEIGHT, height);
    let right = pieces(isa, b.t(), WIDTH, width);
    let tasks = tiles(c, HEIGHT, WIDTH).into_iter().filter(wanted).collect();
    share(tasks, |mut tile: Tile<'_>| {
        if depth == 0 && !accumulate {
            tile.view.fill(0.0);
        }
        let (left, right) = (&left[tile.row / HEIGHT], &right[tile.column / WIDTH]);
        for (i, (left, right)) in left.iter().zip(right).enumerate() {
            let inner = DEPTH.min(depth - i * DEPTH);
            kernel.block(left, right, inner, tile.view.view_mut(), accumulate || i > 0);
        }
    });
}

/// Packed pieces of some rows × `DEPTH` values along k each, by rows.
fn pieces(isa: Isa, a: ArrayView2<'_, f32>, rows: usize, width: usize) -> Vec<Vec<Vec<f32>>> {
    let along = |row: usize| {
        let part = a.slice(s![row..a.nrows().min(row + rows), ..]);
        let piece = |start: usize| {
            let mut packed = Vec::new();
            let values = start..part.ncols().min(start + DEPTH);
            pack(isa, part.slice(s![.., values]), width, 1.0, &mut packed);
            packed
        };
        (0..part.ncols()).step_by(DEPTH).map(piece).collect()
    };
    let starts: Vec<usize> = (0..a.nrows()).step_by(rows).collect();
    starts.into_par_iter().map(along).collect()
}
