//! Round to nearest: every weight on its own. The baseline that GPTQ has to beat, and the only
//! method that needs no inputs.

use ndarray::{Array2, ArrayView2, s};
use rayon::prelude::*;

use crate::{
    Error, Grid, QuantConfig, QuantizedMatrix, check_finite, grid, tile, update::check_scales,
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
    round_to_grids(w, config, grid::fit)
}

/// Rounds every weight on its own to the grids that `fit` gives for a group, from the group's
/// columns × rows: one per row.
pub(crate) fn round_to_grids(
    w: ArrayView2<'_, f32>,
    config: &QuantConfig,
    fit: impl Fn(ArrayView2<'_, f32>, &QuantConfig) -> Vec<Grid> + Sync,
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
    tile::cut(w, &mut result).into_par_iter().for_each(|(w, mut out)| {
        let tile = tile::columns(w);
        for g in 0..groups {
            let members = g * size..((g + 1) * size).min(in_features);
            let grids = fit(tile.slice(s![members.clone(), ..]), config);
            for (r, grid) in grids.into_iter().enumerate() {
                out.scales[(r, g)] = grid.scale;
                out.zeros[(r, g)] = grid.zero as u8;
                for c in members.clone() {
                    out.codes[(r, c)] = grid.encode(w[(r, c)]) as u8;
                }
            }
        }
    });
    check_scales(&result)?;
    Ok(result)
}
