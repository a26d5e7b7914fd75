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

use std::ops::Range;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, Zip, concatenate, s};

use crate::Linalg;

/// What columns owe to those behind them.
pub(crate) struct Feedback<'a> {
    /// Upper factor of H⁻¹, in processing order.
    pub(crate) u: ArrayView2<'a, f32>,
    /// GPTAQ's shift, strictly upper triangular.
    pub(crate) p: Option<ArrayView2<'a, f32>>,
    /// FOEM's share; 0 is GPTQ.
    pub(crate) beta: f32,
    pub(crate) linalg: &'a dyn Linalg,
}

impl Feedback<'_> {
    /// Pays columns `to` (× rows, in `w`) what closed columns `from` owe them: the reference's lazy
    /// update. GPTAQ's part is that of the rounded weights here, of the weights before rounding
    /// inside a block.
    fn pay(
        &self,
        from: Range<usize>,
        errors: ArrayView2<'_, f32>,
        closed: ArrayView2<'_, f32>,
        to: Range<usize>,
        mut w: ArrayViewMut2<'_, f32>,
    ) {
        let owed = s![from, to];
        self.linalg.gemm(-1.0, self.u.slice(owed).t(), errors, w.view_mut());
        if let Some(p) = &self.p {
            self.linalg.gemm(1.0, p.slice(owed).t(), closed, w);
        }
    }
}

/// What can be seen of a tile when the loop has reached a column.
pub(crate) struct Open<'a, 'f> {
    /// The column, in processing order.
    pub(crate) column: usize,
    /// Where the current block begins.
    start: usize,
    /// in × rows, as of `start`.
    tile: &'a Array2<f32>,
    /// The block's columns × rows: rounded before `column`, up to date from there on.
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

    /// The next `size` columns × rows with all that is owed to them by now. Those in later blocks
    /// are paid in advance, on a copy.
    pub(crate) fn fresh(&self, size: usize) -> Array2<f32> {
        let done = self.column - self.start;
        let end = self.start + self.block.nrows();
        let inside = self.block.slice(s![done..self.block.nrows().min(done + size), ..]);
        let behind = end..end.max(self.column + size);
        let mut outside = self.tile.slice(s![behind.clone(), ..]).to_owned();
        self.feedback.pay(
            self.start..self.column,
            self.errors.slice(s![..done, ..]),
            self.block.slice(s![..done, ..]),
            behind,
            outside.view_mut(),
        );
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
    let (u, p, beta) = (feedback.u, feedback.p, feedback.beta);
    let original = (beta != 0.0).then(|| tile.clone());
    let mut loss = 0.0;
    let mut q = vec![0f32; rows];
    for start in (0..n).step_by(block_size) {
        let end = (start + block_size).min(n);
        // A working copy: the tile itself stays as of the block boundary, because the reference
        // chooses a group's grid from there.
        let mut block = tile.slice(s![start..end, ..]).to_owned();
        let mut errors = Array2::<f32>::zeros((end - start, rows));
        for c in start..end {
            if let Some(original) = &original
                && c > start
            {
                Zip::from(block.row_mut(c - start))
                    .and(original.row(c))
                    .for_each(|w, w0| *w -= beta * (*w - w0));
            }
            let open = Open { column: c, start, tile, block: &block, errors: &errors, feedback };
            choose(&open, &mut q);

            let (mut current, mut behind) = block.view_mut().split_at(Axis(0), c - start + 1);
            let w = current.row_mut(c - start).into_slice().expect("rows of a fresh array");
            let mut e = errors.row_mut(c - start);
            let e = e.as_slice_mut().expect("rows of a fresh array");
            let pivot = u[(c, c)];
            for (e, (w, q)) in e.iter_mut().zip(w.iter().zip(&q)) {
                *e = (w - q) / pivot;
                loss += f64::from(*e) * f64::from(*e);
            }
            if let Some(original) = &original {
                for (e, (w, (q, w0))) in
                    e.iter_mut().zip(w.iter().zip(q.iter().zip(original.row(c))))
                {
                    *e = ((w - q) - beta * (w - w0)) / pivot;
                }
            }
            for (k, mut open) in (c + 1..end).zip(behind.rows_mut()) {
                let u = u[(c, k)];
                match p {
                    None => open.iter_mut().zip(&*e).for_each(|(x, e)| *x -= e * u),
                    Some(p) => {
                        let p = p[(c, k)];
                        let owed = e.iter().zip(&*w).map(|(e, w)| e * u - w * p);
                        open.iter_mut().zip(owed).for_each(|(x, owed)| *x -= owed);
                    }
                }
            }
            w.iter_mut().zip(&*e).for_each(|(w, e)| *w -= e * pivot);
        }
        let behind = tile.slice_mut(s![end.., ..]);
        feedback.pay(start..end, errors.view(), block.view(), end..n, behind);
    }
    loss / 2.0
}
