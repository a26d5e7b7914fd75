//! Optimal Brain Surgeon: fix one weight of a row, move the others to make up for it.
//!
//! With h the inverse Hessian of the weights that are still open, fixing weight p at the value v
//! costs the layer, and moves every open weight j by,
//!
//! ```text
//! cost = ½ (w[p] − v)² / h[p, p]          w[j] −= (w[p] − v) / h[p, p] · h[j, p]
//! ```
//!
//! and taking p out of the problem is one step of Gaussian elimination on h (Hassibi & Stork 1993;
//! Frantar & Alistarh 2022, lemma 1). Methods differ in two things only: what v is, and which p
//! comes next. v = 0 prunes ([`obs_prune`]), v on a grid quantizes ([`crate::obq`]).

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use rayon::prelude::*;

use crate::{Error, InverseFactor, check_finite};

/// Sets the weights to zero that `w` (out × in) can best do without, `zeros_per_row` in each row,
/// and moves the others to make up for them. Returns the pruned weights and their loss
/// `½ tr((W − P) H (W − P)ᵀ)` for the damped H, in the measure of [`crate::quantize`].
///
/// Each step takes the weight with the smallest `w² / (H⁻¹)[p, p]` among those left, as it stands
/// after the steps before: the paper's ExactOBS. Inputs that never fire go first, at no cost.
///
/// # Errors
/// [`Error::Shape`] if the factor belongs to another width, [`Error::NotFinite`] for damaged
/// weights, [`Error::Config`] for more zeros than a row has weights.
///
/// Costs at most `out · zeros_per_row · in² / 2` multiply-adds on the caller's rayon pool, and
/// `4 in²` bytes per thread.
///
/// ```
/// use gptq_core::{Hessian, Portable, QuantConfig, obs_prune};
/// use ndarray::array;
///
/// // The second input is nearly a copy of the first, so one weight can do the work of both.
/// let h = Hessian::from_matrix(array![[1.0, 0.99], [0.99, 1.0]]).unwrap();
/// let factor = h.finish(&QuantConfig::default(), &Portable).unwrap();
/// let (pruned, loss) = obs_prune(array![[0.5, 0.4f32]].view(), &factor, 1).unwrap();
/// assert_eq!(pruned[(0, 1)], 0.0);
/// assert!((pruned[(0, 0)] - 0.892).abs() < 1e-3 && loss < 4e-3);
/// ```
pub fn obs_prune(
    w: ArrayView2<'_, f32>,
    factor: &InverseFactor,
    zeros_per_row: usize,
) -> Result<(Array2<f32>, f64), Error> {
    if zeros_per_row > factor.in_features() {
        return Err(Error::Config {
            message: format!(
                "{zeros_per_row} zeros were asked for in rows of {} weights",
                factor.in_features()
            ),
        });
    }
    eliminate(w, factor, zeros_per_row, |_, _, _| 0.0, |_, open| open.cheapest())
}

/// Fixes `steps` weights of each row (out × in), one after the other. `target(row, column, w)` is
/// the value that a weight is fixed at if it is fixed while it is w; `next(row, open)` picks an
/// index into what is open. Returns the weights afterwards, and what the steps cost.
pub(crate) fn eliminate(
    w: ArrayView2<'_, f32>,
    factor: &InverseFactor,
    steps: usize,
    target: impl Fn(usize, usize, f64) -> f32 + Sync,
    next: impl Fn(usize, &Open) -> usize + Sync,
) -> Result<(Array2<f32>, f64), Error> {
    if w.ncols() != factor.in_features() {
        return Err(Error::Shape {
            what: "weight",
            found: [w.nrows(), w.ncols()],
            expected: [w.nrows(), factor.in_features()],
        });
    }
    check_finite("weight", w)?;
    let inverse = inverse(factor);
    let rows: Vec<(Array1<f32>, f64)> = (0..w.nrows())
        .into_par_iter()
        .map(|r| {
            let mut open = Open::new(w.row(r), factor, inverse.clone());
            let mut row = Array1::zeros(w.ncols());
            let mut loss = 0.0;
            for _ in 0..steps {
                open.errors.clear();
                for (&c, &w) in open.columns.iter().zip(&open.weights) {
                    open.errors.push(w - f64::from(target(r, c, w)));
                }
                let index = next(r, &open);
                let column = open.columns[index];
                row[column] = target(r, column, open.weights[index]);
                loss += open.fix(index);
            }
            for (&c, &w) in open.columns.iter().zip(&open.weights) {
                row[c] = w as f32;
            }
            (row, loss)
        })
        .collect();
    let mut result = Array2::zeros(w.dim());
    for (mut to, (row, _)) in result.outer_iter_mut().zip(&rows) {
        to.assign(row);
    }
    Ok((result, rows.iter().map(|(_, loss)| loss).sum()))
}

/// The weights of one row that are not fixed yet, in the factor's processing order.
pub(crate) struct Open {
    /// Original columns.
    pub(crate) columns: Vec<usize>,
    /// `w − v` of each: the error of fixing it now.
    pub(crate) errors: Vec<f64>,
    weights: Vec<f64>,
    inverse: LowerTriangle,
}

/// A symmetric matrix, by the rows of its lower triangle.
type LowerTriangle = Vec<Vec<f64>>;

impl Open {
    fn new(row: ArrayView1<'_, f32>, factor: &InverseFactor, inverse: LowerTriangle) -> Self {
        let columns = factor.perm.clone();
        // Inputs that never fire get zero weights, as everywhere.
        let weight = |&c: &usize| if factor.dead[c] { 0.0 } else { f64::from(row[c]) };
        let weights = columns.iter().map(weight).collect();
        Self { columns, errors: Vec::new(), weights, inverse }
    }

    /// The index of the weight that is cheapest to fix; the first wins ties.
    pub(crate) fn cheapest(&self) -> usize {
        let cost = |i: usize| self.errors[i] * self.errors[i] / self.inverse[i][i];
        (1..self.errors.len()).fold(0, |best, i| if cost(i) < cost(best) { i } else { best })
    }

    /// Fixes the weight at `index`. Returns what it cost.
    fn fix(&mut self, index: usize) -> f64 {
        let column: Vec<f64> =
            (0..self.inverse.len()).map(|i| self.inverse[i.max(index)][i.min(index)]).collect();
        let error = self.errors[index];
        let pivot = column[index];
        for ((w, row), &h) in self.weights.iter_mut().zip(&mut self.inverse).zip(&column) {
            let share = h / pivot;
            *w -= error * share;
            for (entry, h) in row.iter_mut().zip(&column) {
                *entry -= share * h;
            }
        }
        self.columns.remove(index);
        self.weights.remove(index);
        self.inverse.remove(index);
        for row in &mut self.inverse[index..] {
            row.remove(index);
        }
        error * error / pivot / 2.0
    }
}

/// `H⁻¹ = Uᵀ U`, summed in f64.
fn inverse(factor: &InverseFactor) -> LowerTriangle {
    let columns: Vec<Vec<f64>> = factor
        .u
        .axis_iter(Axis(1))
        .map(|column| column.iter().map(|&u| u.into()).collect())
        .collect();
    // Column j of U ends at row j.
    let entry =
        |i: usize, j: usize| columns[i].iter().zip(&columns[j][..=j]).map(|(a, b)| a * b).sum();
    (0..columns.len()).into_par_iter().map(|i| (0..=i).map(|j| entry(i, j)).collect()).collect()
}
