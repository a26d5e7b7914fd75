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
//! the rule that chose q. So one loop both quantizes ([`quantize`]) and measures ([`layer_loss`]).

use ndarray::{Array2, ArrayView2, Axis, s};
use rayon::prelude::*;

use crate::{
    Error, InverseFactor, Linalg, QuantConfig, QuantizedMatrix, check_finite,
    groups::Grids,
    order,
    tile::{self, kill_dead_columns, processing_order},
};

/// Columns per lazy update where codes are given: any number measures the same loss.
const MEASURE_BLOCK: usize = 64;

/// Quantizes `w` (out × in) column by column, and returns its loss: `½ Σ e²` over the layer.
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
            sweep(&mut tile, factor.u.view(), config.block_size.get(), linalg, |c, open, w, q| {
                let grids = grids.at(c, open);
                let column = factor.perm[c];
                for (row, (grid, (w, q))) in grids.iter().zip(w.iter().zip(q)).enumerate() {
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

/// The loss of any approximation `q` (out × in) of `w`, in the measure of [`quantize`].
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
            sweep(&mut tile, factor.u.view(), MEASURE_BLOCK, linalg, |c, _, _, q| {
                q.copy_from_slice(given.row(c).as_slice().expect("rows of a fresh array"));
            })
        })
        .collect();
    Ok(losses.iter().sum())
}

/// Runs the column loop over one tile (in × rows, processing order). `choose(c, tile, w, q)` reads
/// the current column `w` and writes its rounded values `q`; `tile` is the weights as of the last
/// block boundary. Returns `½ Σ e²`.
fn sweep(
    tile: &mut Array2<f32>,
    u: ArrayView2<'_, f32>,
    block_size: usize,
    linalg: &dyn Linalg,
    mut choose: impl FnMut(usize, &Array2<f32>, &[f32], &mut [f32]),
) -> f64 {
    let (n, rows) = tile.dim();
    let mut loss = 0.0;
    let mut q = vec![0f32; rows];
    for start in (0..n).step_by(block_size) {
        let end = (start + block_size).min(n);
        // A working copy: the tile itself stays as of the block boundary, because the reference
        // chooses a group's grid from there.
        let mut block = tile.slice(s![start..end, ..]).to_owned();
        let mut errors = Array2::<f32>::zeros((end - start, rows));
        for c in start..end {
            let (mut current, mut open) = block.view_mut().split_at(Axis(0), c - start + 1);
            let w = current.row_mut(c - start);
            let w = &*w.into_slice().expect("rows of a fresh array");
            choose(c, tile, w, &mut q);
            let mut error = errors.row_mut(c - start);
            let error = error.as_slice_mut().expect("rows of a fresh array");
            let pivot = u[(c, c)];
            for (e, (w, q)) in error.iter_mut().zip(w.iter().zip(&q)) {
                *e = (w - q) / pivot;
                loss += f64::from(*e) * f64::from(*e);
            }
            for (mut w, &u) in open.rows_mut().into_iter().zip(u.slice(s![c, c + 1..end])) {
                for (w, e) in w.iter_mut().zip(&*error) {
                    *w -= e * u;
                }
            }
        }
        // The lazy update: what this block owes to all columns behind it, in one product.
        let behind = u.slice(s![start..end, end..]);
        linalg.gemm(-1.0, behind.t(), errors.view(), tile.slice_mut(s![end.., ..]));
    }
    loss / 2.0
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
