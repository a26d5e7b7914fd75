//! Round to nearest: every weight on its own. The baseline that GPTQ has to beat, and the only
//! method that needs no inputs.

use ndarray::{Array2, ArrayView2, s};
use rayon::prelude::*;

use crate::{
    Error, Linalg, Loop, Portable, QuantConfig, QuantizedMatrix, check_finite,
    grid::{self, RowGrids},
    tile,
    update::check_scales,
};

/// Quantizes `w` (out × in) with the grids of [`crate::quantize`] and no error feedback. Groups are
/// runs of stored columns; `act_order`, `static_groups` and `damping` have no meaning here.
///
/// # Errors
/// [`Error::Config`], [`Error::NotFinite`], [`Error::ScaleOverflow`].
///
/// Runs on the caller's rayon pool.
///
/// ```
/// use gptq_core::{QuantConfig, round_to_nearest};
///
/// let w = ndarray::array![[-1.0, 0.0, 2.0, 4.0f32]];
/// let q = round_to_nearest(w.view(), &QuantConfig::default()).unwrap();
/// assert_eq!(q.codes, ndarray::array![[6, 8, 12, 15]]);
/// ```
pub fn round_to_nearest(
    w: ArrayView2<'_, f32>,
    config: &QuantConfig,
) -> Result<QuantizedMatrix, Error> {
    nearest(w, config, &Portable)
}

/// [`round_to_nearest`] with the loops of `linalg`.
pub(crate) fn nearest(
    w: ArrayView2<'_, f32>,
    config: &QuantConfig,
    linalg: &dyn Linalg,
) -> Result<QuantizedMatrix, Error> {
    round_to_grids(w, config, linalg, |members| grid::fit(members, config, linalg))
}

/// Rounds every weight on its own to the grids that `fit` gives for a group, from the group's
/// columns × rows: one per row.
pub(crate) fn round_to_grids(
    w: ArrayView2<'_, f32>,
    config: &QuantConfig,
    linalg: &dyn Linalg,
    fit: impl Fn(ArrayView2<'_, f32>) -> RowGrids + Sync,
) -> Result<QuantizedMatrix, Error> {
    config.validate()?;
    check_finite("weight", w)?;
    let (out_features, in_features) = w.dim();
    let size = config.group_size.columns(in_features);
    let groups = config.group_size.groups(in_features);
    let mut result = QuantizedMatrix {
        bits: config.bits,
        codes: Array2::zeros(w.dim()),
        scales: Array2::zeros((out_features, groups)),
        zeros: Array2::zeros((out_features, groups)),
        g_idx: (0..in_features).map(|c| (c / size) as u32).collect(),
    };
    let order: Vec<usize> = (0..in_features).collect();
    tile::cut(w, &mut result).into_par_iter().for_each(|(w, mut out)| {
        let tile = tile::columns(w, &order);
        let mut codes = Array2::zeros(tile.dim());
        let mut levels = vec![0f32; w.nrows()];
        for g in 0..groups {
            let members = g * size..((g + 1) * size).min(in_features);
            let grids = fit(tile.slice(s![members.clone(), ..]));
            out.put_grids(g, &grids);
            for c in members {
                let (column, mut codes) = (tile.row(c), codes.row_mut(c));
                let column = column.to_slice().expect("rows of a fresh array");
                let codes = codes.as_slice_mut().expect("rows of a fresh array");
                linalg.run(Loop::round(column, &grids, codes, &mut levels));
            }
        }
        out.put_codes(&codes, &order);
    });
    check_scales(&result)?;
    Ok(result)
}
