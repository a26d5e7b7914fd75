//! A layer and its factor, tile by tile through the column loop: to quantize, and to measure.

use ndarray::{Array2, ArrayView2, s};
use rayon::prelude::*;

use crate::{
    Error, InverseFactor, Linalg, QuantConfig, QuantizedMatrix, check_finite,
    groups::Grids,
    order,
    sweep::{Feedback, sweep},
    tile::{self, kill_dead_columns, processing_order},
};

/// Columns per lazy update where codes are given: any number measures the same loss.
const MEASURE_BLOCK: usize = 64;

/// Quantizes `w` (out × in) column by column, and returns `½ Σ ((w − q) / d)²` over the layer: its
/// loss as [`layer_loss`] measures it, unless GPTAQ or FOEM moved the weights it aimed at.
///
/// # Errors
/// [`Error::Shape`] if the factor belongs to another width, [`Error::Config`] if it was ordered for
/// another setting, [`Error::NotFinite`] for damaged weights, [`Error::ScaleOverflow`] where half
/// precision cannot hold a scale.
///
/// Costs out · in² multiply-adds on the caller's rayon pool. Memory beyond the result: one f32 copy
/// of 64 rows per thread.
pub fn quantize(
    w: ArrayView2<'_, f32>,
    factor: &InverseFactor,
    config: &QuantConfig,
    linalg: &dyn Linalg,
) -> Result<(QuantizedMatrix, f64), Error> {
    config.validate()?;
    factor.check(config)?;
    check_operands(w, factor)?;
    let groups = order::group_of_position(&factor.perm, config);

    let mut result = QuantizedMatrix {
        bits: config.bits,
        codes: Array2::zeros(w.dim()),
        scales: Array2::zeros((w.nrows(), config.group_size.groups(w.ncols()))),
        zeros: Array2::zeros((w.nrows(), config.group_size.groups(w.ncols()))),
        g_idx: vec![0; w.ncols()],
    };
    for (&column, &group) in factor.perm.iter().zip(&groups) {
        result.g_idx[column] = group;
    }
    let losses: Vec<f64> = tile::cut(w, &mut result)
        .into_par_iter()
        .map(|(w, mut out)| {
            let mut tile = processing_order(w, factor);
            let mut grids = Grids::prepare(&tile, &groups, config);
            kill_dead_columns(&mut tile, factor);
            grids.fix_static(&tile);
            let feedback =
                Feedback { u: factor.u.view(), p: factor.shift(), beta: config.foem_beta, linalg };
            sweep(&mut tile, &feedback, config.block_size.get(), |open, q| {
                let (c, grids) = (open.column, grids.at(open));
                let column = factor.perm[c];
                for (row, (grid, (w, q))) in
                    grids.iter().zip(open.weights().iter().zip(q)).enumerate()
                {
                    let code = grid.encode(*w);
                    out.codes[(row, column)] = code as u8;
                    out.scales[(row, groups[c] as usize)] = grid.scale;
                    out.zeros[(row, groups[c] as usize)] = grid.zero as u8;
                    *q = grid.decode(code);
                }
            })
        })
        .collect();
    check_scales(&result)?;
    Ok((result, losses.iter().sum()))
}

/// The loss of any approximation `q` (out × in) of `w`: `½ tr((W − Q) H (W − Q)ᵀ)` for the damped
/// H of the factor.
///
/// # Errors
/// As [`quantize`].
///
/// Costs as much as quantizing.
pub fn layer_loss(
    w: ArrayView2<'_, f32>,
    q: ArrayView2<'_, f32>,
    factor: &InverseFactor,
    linalg: &dyn Linalg,
) -> Result<f64, Error> {
    check_operands(w, factor)?;
    check_operands(q, factor)?;
    let rows: Vec<usize> = (0..w.nrows()).step_by(tile::ROWS).collect();
    let losses: Vec<f64> = rows
        .into_par_iter()
        .map(|start| {
            let rows = start..(start + tile::ROWS).min(w.nrows());
            let mut tile = processing_order(w.slice(s![rows.clone(), ..]), factor);
            kill_dead_columns(&mut tile, factor);
            let mut given = processing_order(q.slice(s![rows, ..]), factor);
            // What meets an input that never fires costs nothing.
            kill_dead_columns(&mut given, factor);
            let feedback = Feedback { u: factor.u.view(), p: None, beta: 0.0, linalg };
            sweep(&mut tile, &feedback, MEASURE_BLOCK, |open, q| {
                q.copy_from_slice(given.row(open.column).as_slice().expect("a fresh array"));
            })
        })
        .collect();
    Ok(losses.iter().sum())
}

fn check_operands(w: ArrayView2<'_, f32>, factor: &InverseFactor) -> Result<(), Error> {
    let expected = [w.nrows(), factor.in_features()];
    if w.ncols() != expected[1] {
        return Err(Error::Shape { what: "weight", found: [w.nrows(), w.ncols()], expected });
    }
    check_finite("weight", w)
}

pub(crate) fn check_scales(result: &QuantizedMatrix) -> Result<(), Error> {
    let overflow = result.scales.indexed_iter().find(|(_, scale)| !scale.is_finite());
    match overflow {
        Some(((row, _), &scale)) => Err(Error::ScaleOverflow { scale, row }),
        None => Ok(()),
    }
}
