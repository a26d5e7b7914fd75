//! Products of f32 matrices whose entries are rounded to bf16 on the way in; sums are f32.
//!
//! Both operands are packed once, as tiles that one instruction consumes:
//!
//! ```text
//! tile    16 rows × 32 values along k, rounded to bf16, neighbours in pairs
//!         left: row by row;  right: pair by pair, so that a line holds one pair of all 16 columns
//! strip   the tiles of 16 rows (left) or columns (right), along k
//! ```
//!
//! Then blocks of the result are independent tasks. bf16 keeps 8 significant bits, so a factor is
//! off by 2⁻⁹ of itself at most, in either direction alike.

mod attention;
mod kernel;
mod pack;
mod turn;

use ndarray::{ArrayView2, ArrayViewMut2};

use super::{
    gemm::{Tile, tiles},
    isa::Isa,
    share::share,
};
pub(crate) use attention::attention;
use kernel::MicroKernel;
pub(crate) use pack::{Packed, Side};

/// Rows and columns that a micro-kernel computes at once: two strips each.
const MICRO: usize = 2 * pack::ROWS;

/// Rows and columns of the result per task: its share of `left` stays in the second cache.
pub(crate) fn block(isa: Isa) -> usize {
    kernel::best(isa).map_or(MICRO, MicroKernel::block)
}

/// Whether this CPU multiplies bf16 faster than f32.
pub(crate) fn available(isa: Isa) -> bool {
    kernel::best(isa).is_some()
}

/// `c = a · b` or `c += a · b` on the caller's pool; a is m × k, b is k × n, c has rows without
/// gaps.
///
/// Panics where [`available`] says no.
pub(crate) fn product(
    isa: Isa,
    a: ArrayView2<'_, f32>,
    b: ArrayView2<'_, f32>,
    c: ArrayViewMut2<'_, f32>,
    accumulate: bool,
) {
    let left = Packed::new(isa, a, Side::Left);
    let right = Packed::new(isa, b.t(), Side::Right);
    multiply(&left, &right, block(isa), c, accumulate, |_| true);
}

/// The product of packed operands, of those blocks of `side` rows and columns, a multiple of 32,
/// that `wanted` keeps.
pub(crate) fn multiply(
    left: &Packed,
    right: &Packed,
    side: usize,
    c: ArrayViewMut2<'_, f32>,
    accumulate: bool,
    wanted: impl Fn(&Tile<'_>) -> bool,
) {
    let kernel = kernel::best(left.isa()).expect("asked for before");
    assert_eq!((left.rows(), right.rows()), c.dim(), "bf16 product: result has another shape");
    assert_eq!(left.steps(), right.steps(), "bf16 product: inner dimensions differ");
    let blocks = tiles(c, side, side).into_iter().filter(wanted).collect();
    share(blocks, |block| multiply_block(kernel, left, right, 0, block, accumulate));
}

/// One block of the result, on the calling thread. The steps of `right` that meet those of `left`
/// begin at `from`.
fn multiply_block(
    kernel: MicroKernel,
    left: &Packed,
    right: &Packed,
    from: usize,
    mut block: Tile<'_>,
    accumulate: bool,
) {
    let (rows, columns) = block.view.dim();
    if left.steps() == 0 && !accumulate {
        block.view.fill(0.0);
    }
    let (top, start) = (block.row / pack::ROWS, block.column / pack::ROWS);
    let together = kernel.steps();
    kernel.session(|kernel| {
        for step in (0..left.steps()).step_by(together) {
            let steps = step..left.steps().min(step + together);
            let add = accumulate || step > 0;
            for column in (0..columns).step_by(MICRO) {
                let met = from + steps.start..from + steps.end;
                let right = right.pair(start + column / pack::ROWS, met);
                for row in (0..rows).step_by(MICRO) {
                    let left = left.pair(top + row / pack::ROWS, steps.clone());
                    let size = (MICRO.min(rows - row), MICRO.min(columns - column));
                    kernel.run(left, right, &mut block.view, (row, column), size, add);
                }
            }
        }
    });
}
