//! What an approximation costs: the loss that the column loop minimises, from its definition.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, Axis, s};
use rayon::prelude::*;

use crate::{Error, InverseFactor, Linalg, QuantConfig, rtn, tile::ROWS, update::check_operands};

/// Columns of H per product.
const COLUMNS: usize = 256;

/// The loss of any approximation `q` (out × in) of `w`: `½ tr((W − Q) H (W − Q)ᵀ)` for the damped
/// H of the factor.
///
/// # Errors
/// As [`crate::quantize`].
///
/// Costs out · in² / 2 multiply-adds on the caller's rayon pool.
pub fn layer_loss(
    w: ArrayView2<'_, f32>,
    q: ArrayView2<'_, f32>,
    factor: &InverseFactor,
    linalg: &dyn Linalg,
) -> Result<f64, Error> {
    check_operands(w, factor)?;
    check_operands(q, factor)?;
    let difference =
        |rows: Range<usize>| Ok(&w.slice(s![rows.clone(), ..]) - &q.slice(s![rows, ..]));
    loss(w.nrows(), difference, factor, linalg)
}

/// The loss of rounding to nearest.
pub(crate) fn rtn_loss(
    w: ArrayView2<'_, f32>,
    factor: &InverseFactor,
    config: &QuantConfig,
    linalg: &dyn Linalg,
) -> Result<f64, Error> {
    check_operands(w, factor)?;
    let difference = |rows: Range<usize>| {
        let w = w.slice(s![rows, ..]);
        let mut nearest = rtn::nearest(w, config, linalg)?.dequantize();
        nearest.zip_mut_with(&w, |q, w| *q = w - *q);
        Ok(nearest)
    };
    loss(w.nrows(), difference, factor, linalg)
}

/// `½ Σ d H dᵀ` over rows d = `difference(rows)`, out × in in stored order.
///
/// By symmetry a row of H counts from its diagonal on only, which is halved.
fn loss(
    rows: usize,
    difference: impl Fn(Range<usize>) -> Result<Array2<f32>, Error> + Sync,
    factor: &InverseFactor,
    linalg: &dyn Linalg,
) -> Result<f64, Error> {
    let n = factor.in_features();
    let losses: Result<Vec<f64>, Error> = (0..rows.div_ceil(ROWS))
        .into_par_iter()
        .map(|tile| {
            let stored = difference(tile * ROWS..((tile + 1) * ROWS).min(rows))?;
            let mut d = stored.select(Axis(1), &factor.perm);
            // What meets an input that never fires costs nothing.
            for (p, &column) in factor.perm.iter().enumerate() {
                if factor.dead[column] {
                    d.column_mut(p).fill(0.0);
                }
            }
            let mut loss = 0f64;
            for start in (0..n).step_by(COLUMNS) {
                let end = (start + COLUMNS).min(n);
                let columns = d.slice(s![.., start..end]);
                let mut product = Array2::zeros(columns.dim());
                let corner = factor.half_of_h(start..end);
                linalg.gemm(1.0, columns, corner.view(), product.view_mut());
                let below = factor.u.slice(s![end.., start..end]);
                linalg.gemm(1.0, d.slice(s![.., end..]), below, product.view_mut());
                for (product, d) in product.rows().into_iter().zip(columns.rows()) {
                    loss += product
                        .iter()
                        .zip(d)
                        .map(|(&p, &d)| f64::from(p) * f64::from(d))
                        .sum::<f64>();
                }
            }
            Ok(loss)
        })
        .collect();
    Ok(losses?.iter().sum())
}
