//! The loops in which the solver spends what time it does not spend in products: [`Loop`].
//!
//! Each is written once, as plain code over contiguous slices with rows of the layer side by side,
//! and its `run` is inlined into whoever calls it. So a [`crate::Linalg`] that calls it from a
//! function compiled for wider vectors gets the same numbers faster: no product is fused with a
//! sum, and no sum is reordered.

use ndarray::ArrayView2;

use crate::{Grid, grid::RowGrids, grid_search::power};

/// One of the solver's inner loops, ready to run.
pub struct Loop<'a>(Work<'a>);

enum Work<'a> {
    Round(Round<'a>),
    Errors(Errors<'a>),
    Spread(Spread<'a>),
    Extent(Extent<'a>),
    Misfit(Misfit<'a>),
}

impl<'a> Loop<'a> {
    /// Runs the loop. Inlined, so that it is compiled for the instructions of the caller.
    #[inline(always)]
    pub fn run(self) {
        match self.0 {
            Work::Round(work) => work.run(),
            Work::Errors(work) => work.run(),
            Work::Spread(work) => work.run(),
            Work::Extent(work) => work.run(),
            Work::Misfit(work) => work.run(),
        }
    }

    /// Codes of a column of weights, and the values they stand for.
    pub(crate) fn round(
        w: &'a [f32],
        grids: &'a RowGrids,
        codes: &'a mut [u8],
        q: &'a mut [f32],
    ) -> Self {
        Loop(Work::Round(Round { w, grids, codes, q }))
    }

    /// `e = (w − q) / pivot`, and `losses += e²`.
    pub(crate) fn errors(
        w: &'a [f32],
        q: &'a [f32],
        pivot: f32,
        e: &'a mut [f32],
        losses: &'a mut [f64],
    ) -> Self {
        Loop(Work::Errors(Errors { w, q, pivot, e, losses }))
    }

    /// See [`Spread`].
    pub(crate) fn spread(spread: Spread<'a>) -> Self {
        Loop(Work::Spread(spread))
    }

    /// The smallest and the largest of each row of `members` (columns × rows), or what `min` and
    /// `max` hold if that is beyond.
    pub(crate) fn extent(
        members: ArrayView2<'a, f32>,
        min: &'a mut [f32],
        max: &'a mut [f32],
    ) -> Self {
        Loop(Work::Extent(Extent { members, min, max }))
    }

    /// `errors += Σ (|q(x) − x| · unit)^norm` over each row of `members` (columns × rows).
    pub(crate) fn misfit(
        members: ArrayView2<'a, f32>,
        grids: &'a RowGrids,
        units: &'a [f32],
        norm: f32,
        errors: &'a mut [f32],
    ) -> Self {
        Loop(Work::Misfit(Misfit { members, grids, units, norm, errors }))
    }
}

struct Round<'a> {
    w: &'a [f32],
    grids: &'a RowGrids,
    codes: &'a mut [u8],
    q: &'a mut [f32],
}

impl Round<'_> {
    #[inline(always)]
    fn run(self) {
        /// 2²³: above it, bits count units.
        const UNITS: f32 = 8_388_608.0;
        let RowGrids { scales, zeros, maxq } = self.grids;
        let maxq = *maxq;
        let grids = scales.iter().zip(zeros).map(|(&scale, &zero)| Grid { scale, zero, maxq });
        let results = self.codes.iter_mut().zip(self.q.iter_mut());
        for ((&w, grid), (to, q)) in self.w.iter().zip(grids).zip(results) {
            let code = grid.encode(w);
            *to = (code + UNITS).to_bits() as u8;
            *q = grid.decode(code);
        }
    }
}

struct Errors<'a> {
    w: &'a [f32],
    q: &'a [f32],
    pivot: f32,
    e: &'a mut [f32],
    losses: &'a mut [f64],
}

impl Errors<'_> {
    #[inline(always)]
    fn run(self) {
        let pivot = self.pivot;
        let results = self.e.iter_mut().zip(self.losses.iter_mut());
        for ((w, q), (e, loss)) in self.w.iter().zip(self.q).zip(results) {
            *e = (w - q) / pivot;
            *loss += f64::from(*e) * f64::from(*e);
        }
    }
}

/// What closed columns owe to open ones: `x[k] −= e[c] · u[c, k]`, or with GPTAQ
/// `x[k] −= e[c] · u[c, k] − w[c] · p[c, k]`, for one c after the other.
///
/// The order is that of one rank-1 update per column, but an open column is read and written once.
pub(crate) struct Spread<'a> {
    /// Closed × open columns.
    pub(crate) u: ArrayView2<'a, f32>,
    /// Closed columns × rows.
    pub(crate) errors: &'a [f32],
    /// P as `u`, and the closed columns' weights before rounding as `errors`.
    pub(crate) shift: Option<(ArrayView2<'a, f32>, &'a [f32])>,
    /// Open columns × rows.
    pub(crate) open: &'a mut [f32],
    pub(crate) rows: usize,
}

/// Closed columns at a time.
const CLOSED: usize = 16;

impl Spread<'_> {
    #[inline(always)]
    fn run(self) {
        let rows = self.rows;
        if rows == 0 {
            return;
        }
        for (k, x) in self.open.chunks_exact_mut(rows).enumerate() {
            for first in (0..self.u.nrows()).step_by(CLOSED) {
                let count = (self.u.nrows() - first).min(CLOSED);
                let closed = first * rows..(first + count) * rows;
                let mut u = [0f32; CLOSED];
                (0..count).for_each(|c| u[c] = self.u[(first + c, k)]);
                let errors = &self.errors[closed.clone()];
                match &self.shift {
                    None => subtract(x, errors, &u[..count]),
                    Some((p, weights)) => {
                        let weights = &weights[closed];
                        for (c, u) in u[..count].iter().enumerate() {
                            let p = p[(first + c, k)];
                            let closed = c * rows..(c + 1) * rows;
                            let owed = errors[closed.clone()].iter().zip(&weights[closed]);
                            for (x, (e, w)) in x.iter_mut().zip(owed) {
                                *x -= e * u - w * p;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `x −= Σ u[c] · errors[c]`, term by term, with a piece of x in registers meanwhile.
#[inline(always)]
fn subtract(x: &mut [f32], errors: &[f32], u: &[f32]) {
    const PIECE: usize = 64;
    let rows = x.len();
    let (pieces, rest) = x.as_chunks_mut::<PIECE>();
    let rest_at = pieces.len() * PIECE;
    for (i, x) in pieces.iter_mut().enumerate() {
        let mut sum = *x;
        for (u, e) in u.iter().zip(errors.chunks_exact(rows)) {
            let e = &e[i * PIECE..][..PIECE];
            for j in 0..PIECE {
                sum[j] -= e[j] * u;
            }
        }
        *x = sum;
    }
    for (u, e) in u.iter().zip(errors.chunks_exact(rows)) {
        for (x, e) in rest.iter_mut().zip(&e[rest_at..]) {
            *x -= e * u;
        }
    }
}

struct Extent<'a> {
    members: ArrayView2<'a, f32>,
    min: &'a mut [f32],
    max: &'a mut [f32],
}

impl Extent<'_> {
    #[inline(always)]
    fn run(self) {
        for column in self.members.rows() {
            let column = column.to_slice().expect("rows of a row-major matrix");
            for ((lo, hi), &x) in self.min.iter_mut().zip(self.max.iter_mut()).zip(column) {
                // Not `min` and `max`, which spend two more instructions on NaN.
                *lo = if x < *lo { x } else { *lo };
                *hi = if x > *hi { x } else { *hi };
            }
        }
    }
}

struct Misfit<'a> {
    members: ArrayView2<'a, f32>,
    grids: &'a RowGrids,
    units: &'a [f32],
    norm: f32,
    errors: &'a mut [f32],
}

impl Misfit<'_> {
    #[inline(always)]
    fn run(self) {
        let RowGrids { scales, zeros, maxq } = self.grids;
        // Behind a reference they might change with every result.
        let (maxq, norm) = (*maxq, self.norm);
        for column in self.members.rows() {
            let column = column.to_slice().expect("rows of a row-major matrix");
            for ((((error, &x), &scale), &zero), &unit) in
                self.errors.iter_mut().zip(column).zip(scales).zip(zeros).zip(self.units)
            {
                let q = Grid { scale, zero, maxq }.round(x);
                *error += power((q - x).abs() * unit, norm);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, s};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// One rank-1 update after the other, each product and each difference rounded.
        #[test]
        fn spreading_is_one_update_per_column(
            (closed, open, rows) in (1..40usize, 1..20usize, 1..140usize),
            seed in 1..1000usize,
            shifted in any::<bool>(),
        ) {
            let noise = |r, c, k: usize| Array2::from_shape_fn((r, c), |(i, j)| {
                ((i * 7919 + j * 104_729 + i * j * k + seed) % 2003) as f32 / 701.0 - 1.0
            });
            let (u, p) = (noise(closed, open, 3), noise(closed, open, 5));
            let (errors, weights) = (noise(closed, rows, 7), noise(closed, rows, 11));
            let mut found = noise(open, rows, 13);
            let mut want = found.clone();
            for c in 0..closed {
                for k in 0..open {
                    for r in 0..rows {
                        let owed = match shifted {
                            true => errors[(c, r)] * u[(c, k)] - weights[(c, r)] * p[(c, k)],
                            false => errors[(c, r)] * u[(c, k)],
                        };
                        want[(k, r)] -= owed;
                    }
                }
            }
            let weights = weights.as_slice().unwrap();
            Loop::spread(Spread {
                u: u.slice(s![.., ..]),
                errors: errors.as_slice().unwrap(),
                shift: shifted.then(|| (p.view(), weights)),
                open: found.as_slice_mut().unwrap(),
                rows,
            })
            .run();
            prop_assert_eq!(found, want);
        }
    }
}
