//! Optimal Brain Quantization, of which GPTQ is the fast version: a yardstick for small layers.

use ndarray::{Array2, ArrayView2};

use crate::{
    Error, Grid, InverseFactor, QuantConfig, QuantizedMatrix, obs, obs::Open, round_to_nearest,
};

/// Steps between a weight and its nearest level from which on it has left the grid. Inside, the
/// distance is at most half a step, and exactly that for the largest weight of many a symmetric
/// row; rounding to f32 must not decide about those.
const OUTLIER: f64 = 0.501;

/// In which order [`obq`] rounds the weights of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// OBQ: every row picks the weight that is cheapest to round, again and again. A weight that
    /// has left its grid, more than half a step away from the nearest level, is rounded at once,
    /// the farthest first, before it moves farther.
    Greedy,
    /// GPTQ, worked out the long way: every row in the order of the factor.
    Factor,
}

/// Quantizes `w` (out × in) row by row, one weight at a time, and returns its loss
/// `½ tr((W − Q) H (W − Q)ᵀ)` for the damped H, in the measure of [`crate::quantize`]
/// (Frantar & Alistarh 2022, algorithm 3).
///
/// The grids are those of [`round_to_nearest`], chosen once from the original weights, so of
/// `config` it reads bits, groups and grid settings; columns were ordered and H was damped when
/// the factor was made. With [`Order::Factor`] the codes are those of [`crate::quantize`] with
/// static groups, up to the rounding of f32 (weights and inverse are f64 here).
///
/// # Errors
/// As [`crate::quantize`].
///
/// Costs `out · in³ / 6` multiply-adds on the caller's rayon pool, about `in / 3` times what GPTQ
/// costs, and `4 in²` bytes per thread: for layers of a few hundred inputs.
///
/// ```
/// use gptq_core::{Hessian, Order, Portable, QuantConfig, obq};
/// use ndarray::array;
///
/// let h = Hessian::from_matrix(array![[2.0, 1.5], [1.5, 2.0]]).unwrap();
/// let config = QuantConfig { bits: gptq_core::Bits::B2, ..QuantConfig::default() };
/// let factor = h.finish(&config, &Portable).unwrap();
/// let (q, _) = obq(array![[-0.9, 0.55f32]].view(), &factor, &config, Order::Greedy).unwrap();
/// assert_eq!(q.codes, array![[0, 3]]);
/// ```
pub fn obq(
    w: ArrayView2<'_, f32>,
    factor: &InverseFactor,
    config: &QuantConfig,
    order: Order,
) -> Result<(QuantizedMatrix, f64), Error> {
    let mut result = round_to_nearest(w, config)?;
    let grid = |row: usize, column: usize| {
        let at = (row, result.g_idx[column] as usize);
        let zero = f32::from(result.zeros[at]);
        Grid { scale: result.scales[at], zero, maxq: f32::from(config.bits.maxq()) }
    };
    let nearest = |row: usize, column: usize, w: f64| {
        let grid = grid(row, column);
        grid.decode(grid.encode(w as f32))
    };
    let next = |row: usize, open: &Open| match order {
        Order::Factor => 0,
        Order::Greedy => {
            let steps =
                |i: usize| open.errors[i].abs() / f64::from(grid(row, open.columns[i]).scale);
            let farthest = (1..open.errors.len())
                .fold(0, |best, i| if steps(i) > steps(best) { i } else { best });
            if steps(farthest) > OUTLIER { farthest } else { open.cheapest() }
        }
    };
    let (values, loss) = obs::eliminate(w, factor, w.ncols(), nearest, next)?;
    let codes = Array2::from_shape_fn(w.dim(), |(r, c)| grid(r, c).encode(values[(r, c)]) as u8);
    result.codes = codes;
    Ok((result, loss))
}
