//! A layer and its factor, tile by tile through the column loop.

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use crate::{
    Error, InverseFactor, Linalg, Loop, QuantConfig, QuantizedMatrix, check_finite,
    feedback::Feedback,
    groups::Grids,
    order,
    sweep::sweep,
    tile::{self, kill_dead_columns},
};

/// Quantizes `w` (out × in) column by column, and returns `½ Σ ((w − q) / d)²` over the layer: its
/// loss as [`crate::layer_loss`] measures it, unless GPTAQ or FOEM moved the weights it aimed at.
///
/// # Errors
/// [`Error::Shape`] if the factor belongs to another width, [`Error::Config`] if it was ordered for
/// another setting, [`Error::NotFinite`] for damaged weights, [`Error::ScaleOverflow`] where half
/// precision cannot hold a scale.
///
/// Costs out · in² multiply-adds on the caller's rayon pool. Memory beyond the result: one f32 copy
/// of 128 rows per thread.
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
            let mut tile = tile::columns(w, &factor.perm);
            let mut grids = Grids::prepare(&tile, &groups, config, linalg);
            kill_dead_columns(&mut tile, factor);
            grids.fix_static(&tile);
            let feedback =
                Feedback { u: factor.u.view(), p: factor.shift(), beta: config.foem_beta, linalg };
            let mut codes = Array2::zeros(tile.dim());
            let loss = sweep(&mut tile, &feedback, config.block_size.get(), |open, q| {
                let mut codes = codes.row_mut(open.column);
                let codes = codes.as_slice_mut().expect("rows of a fresh array");
                linalg.run(Loop::round(open.weights(), grids.at(open), codes, q));
            });
            out.put_codes(&codes, &factor.perm);
            grids.chosen().for_each(|(group, grids)| out.put_grids(group, grids));
            loss
        })
        .collect();
    check_scales(&result)?;
    Ok((result, losses.iter().sum()))
}

pub(crate) fn check_operands(w: ArrayView2<'_, f32>, factor: &InverseFactor) -> Result<(), Error> {
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
