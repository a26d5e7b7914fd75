//! The heart: columns are rounded one by one, and the error of each is spread over those still
//! open (Frantar et al. 2022, algorithm 1).
//!
//! For column c with pivot `d = U[c, c]`, current weights w and rounded weights q,
//!
//! ```text
//! e = (w − q) / d          W[:, k] −= e · U[c, k]   for k > c
//! ```
//!
//! and `½ Σ e²` is exactly the layer's loss `½ tr((W − Q) H (W − Q)ᵀ)` for the damped H, whatever
//! the rule that chose q. So one loop both quantizes and measures. Two terms change what it aims
//! at; with `w0` the weights before the first update,
//!
//! ```text
//! GPTAQ    W[:, k] += w · P[c, k]                      what the column's input lacks
//! FOEM     w −= β (w − w0)   before rounding,          drawn back to where it began
//!          e = ((w − q) − β (w − w0)) / d
//! ```
//!
//! Nothing is owed to a column before it is rounded, so errors are spread as late as is cheapest:
//! over the rest of a strip at once, over the rest of a block at the end of each strip, both term
//! by term; and over what is behind a block as one product, the reference's lazy update.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, Axis, Zip, concatenate, s};

use crate::{
    feedback::{Feedback, slice},
    loops::Loop,
};

/// Columns per strip. Any number gives the same bits; errors of a strip should fit the nearest
/// cache.
const STRIP: usize = 16;

/// What can be seen of a tile when the loop has reached a column.
pub(crate) struct Open<'a, 'f> {
    /// The column, in processing order.
    pub(crate) column: usize,
    /// Where the current block begins, and the current strip in it.
    start: usize,
    strip: Range<usize>,
    /// in × rows, as of `start`.
    tile: &'a Array2<f32>,
    /// The block's columns × rows as they were when they were rounded; up to date from `column` to
    /// the end of the strip; without what the strip owes behind it.
    block: &'a Array2<f32>,
    /// The block's errors × rows, up to `column`.
    errors: &'a Array2<f32>,
    feedback: &'a Feedback<'f>,
}

impl Open<'_, '_> {
    /// The column's weights, a row of the layer each.
    pub(crate) fn weights(&self) -> &[f32] {
        let row = self.block.row(self.column - self.start);
        row.to_slice().expect("rows of a fresh array")
    }

    /// The next `size` columns × rows as of the block boundary.
    pub(crate) fn stale(&self, size: usize) -> ArrayView2<'_, f32> {
        self.tile.slice(s![self.column..self.column + size, ..])
    }

    /// The next `size` columns × rows with all that is owed to them by now. What is owed behind the
    /// strip is paid in advance, on a copy.
    pub(crate) fn fresh(&self, size: usize) -> Array2<f32> {
        let (last, end) = (self.column + size, self.start + self.block.nrows());
        let of_block = |a: &Range<usize>| s![a.start - self.start..a.end - self.start, ..];
        let closed = |from: &Range<usize>| {
            (self.errors.slice(of_block(from)), self.block.slice(of_block(from)))
        };
        let mut inside = self.block.slice(of_block(&(self.column..last.min(end)))).to_owned();
        let behind = self.strip.end.min(last)..last.min(end);
        let owing = self.strip.start..self.column;
        let late = inside.slice_mut(s![behind.start - self.column.., ..]);
        self.feedback.spread(owing.clone(), closed(&owing), behind, late);

        let behind = end..end.max(last);
        let mut outside = self.tile.slice(s![behind.clone(), ..]).to_owned();
        let owing = self.start..self.column;
        self.feedback.pay(owing.clone(), closed(&owing), behind, outside.view_mut());
        concatenate![Axis(0), inside, outside]
    }
}

/// Runs the column loop over one tile (in × rows, processing order). `choose(open, q)` reads the
/// current column and writes its rounded values. Returns `½ Σ ((w − q) / d)²`.
pub(crate) fn sweep(
    tile: &mut Array2<f32>,
    feedback: &Feedback<'_>,
    block_size: usize,
    mut choose: impl FnMut(&Open<'_, '_>, &mut [f32]),
) -> f64 {
    let (n, rows) = tile.dim();
    let (u, beta, linalg) = (feedback.u, feedback.beta, feedback.linalg);
    let original = (beta != 0.0).then(|| tile.clone());
    let mut losses = vec![0f64; rows];
    let mut q = vec![0f32; rows];
    for start in (0..n).step_by(block_size) {
        let end = (start + block_size).min(n);
        // A working copy: the tile itself stays as of the block boundary, because the reference
        // chooses a group's grid from there.
        let mut block = tile.slice(s![start..end, ..]).to_owned();
        let mut errors = Array2::<f32>::zeros((end - start, rows));
        for first in (start..end).step_by(STRIP) {
            let strip = first..(first + STRIP).min(end);
            for c in strip.clone() {
                let drawn = original.as_ref().map(|original| original.row(c));
                if let Some(w0) = drawn.filter(|_| c > start) {
                    Zip::from(block.row_mut(c - start))
                        .and(w0)
                        .for_each(|w, w0| *w -= beta * (*w - w0));
                }
                let strip = strip.clone();
                let open = Open {
                    column: c,
                    start,
                    strip,
                    tile,
                    block: &block,
                    errors: &errors,
                    feedback,
                };
                choose(&open, &mut q);

                let w = block.slice(s![c - start..=c - start, ..]);
                let mut e = errors.row_mut(c - start);
                let to = e.as_slice_mut().expect("rows of a fresh array");
                linalg.run(Loop::errors(slice(w), &q, u[(c, c)], to, &mut losses));
                if let Some(w0) = drawn {
                    Zip::from(&mut e).and(w.row(0)).and(&q).and(w0).for_each(|e, w, q, w0| {
                        *e = ((w - q) - beta * (w - w0)) / u[(c, c)];
                    });
                }
                owe(feedback, start, c..c + 1, c + 1..first + STRIP, &errors, &mut block);
            }
            owe(feedback, start, strip.clone(), strip.end..end, &errors, &mut block);
        }
        let behind = tile.slice_mut(s![end.., ..]);
        feedback.pay(start..end, (errors.view(), block.view()), end..n, behind);
    }
    losses.iter().sum::<f64>() / 2.0
}

/// Columns `from` of the block at `start` pay columns `to` of it, as far as there are any.
fn owe(
    feedback: &Feedback<'_>,
    start: usize,
    from: Range<usize>,
    to: Range<usize>,
    errors: &Array2<f32>,
    block: &mut Array2<f32>,
) {
    let to = to.start..to.end.min(start + block.nrows());
    let (closed, mut open) = block.view_mut().split_at(Axis(0), to.start - start);
    let closed = closed.slice(s![from.start - start..from.end - start, ..]);
    let errors = errors.slice(s![from.start - start..from.end - start, ..]);
    let open = open.slice_mut(s![..to.len(), ..]);
    feedback.spread(from, (errors, closed), to, open);
}
