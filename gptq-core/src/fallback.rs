//! What to do with a layer whose inputs say too little: grids from the weights alone.
//!
//! A layer that hardly a calibration token reached (an expert of a mixture, mostly) has no Hessian
//! to speak of, and error feedback through noise is worse than none. Each [`FallbackStrategy`] is an
//! interval per row and group; the interval gives the grid, and every weight goes to its nearest
//! level.
//!
//! ```text
//! rtn       [min(w, 0), max(w, 0)], or the `mse` search of shrunken ones
//! midpoint  mid ± (max − min)/2, mid = (max + min)/2
//! mean      mean ± max |w − mean|
//! median    median ± max |w − median|
//! stdclip   mean ± 3 σ: outliers saturate
//! ```
//!
//! A grid's zero point is one of its levels, so an interval that misses 0 is widened to reach it. A
//! symmetric grid takes the smallest interval ±r that holds the strategy's. Strategies and names are
//! GPTQModel's; its own symmetric checkpoints store whatever zero point comes out, which servers
//! that assume the middle misread.

use std::{fmt, str::FromStr};

use ndarray::{ArrayView1, ArrayView2};

use crate::{
    Error, Grid, Portable, QuantConfig, QuantizedMatrix,
    grid::{Range, RowGrids},
    round_to_nearest,
    rtn::round_to_grids,
};

/// How the range of a row in a group is chosen without inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FallbackStrategy {
    /// As [`round_to_nearest`].
    #[default]
    Rtn,
    /// Around the middle of the smallest and the largest weight.
    Midpoint,
    /// Around the mean, as far as the weight farthest from it.
    Mean,
    /// Around the (lower) median, as far as the weight farthest from it.
    Median,
    /// Three standard deviations to both sides of the mean.
    StdClip,
}

impl FallbackStrategy {
    /// All of them.
    pub const ALL: [FallbackStrategy; 5] = [
        FallbackStrategy::Rtn,
        FallbackStrategy::Midpoint,
        FallbackStrategy::Mean,
        FallbackStrategy::Median,
        FallbackStrategy::StdClip,
    ];

    /// The name in options, reports and configuration files.
    pub const fn as_str(self) -> &'static str {
        match self {
            FallbackStrategy::Rtn => "rtn",
            FallbackStrategy::Midpoint => "midpoint",
            FallbackStrategy::Mean => "mean",
            FallbackStrategy::Median => "median",
            FallbackStrategy::StdClip => "stdclip",
        }
    }

    /// The interval to cover, before it is made to hold 0.
    fn interval(self, w: &[f32]) -> Range {
        let min = w.iter().copied().fold(f32::INFINITY, f32::min);
        let max = w.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let n = w.len() as f64;
        let mean = w.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let around = |centre: f32| {
            let reach = (max - centre).max(centre - min);
            Range { min: centre - reach, max: centre + reach }
        };
        match self {
            FallbackStrategy::Rtn | FallbackStrategy::Midpoint => Range { min, max },
            FallbackStrategy::Mean => around(mean as f32),
            FallbackStrategy::Median => {
                let mut sorted = w.to_vec();
                sorted.sort_unstable_by(f32::total_cmp);
                around(sorted[(w.len() - 1) / 2])
            }
            FallbackStrategy::StdClip => {
                let square = |&x: &f32| (f64::from(x) - mean).powi(2);
                let reach = 3.0 * (w.iter().map(square).sum::<f64>() / n).sqrt();
                Range { min: (mean - reach) as f32, max: (mean + reach) as f32 }
            }
        }
    }

    fn grid(self, w: &[f32], config: &QuantConfig) -> Grid {
        let Range { min, max } = self.interval(w);
        let (mut min, mut max) = (min.min(0.0), max.max(0.0));
        if config.sym {
            max = max.max(-min);
            min = -max;
        }
        if min == 0.0 && max == 0.0 {
            (min, max) = (-1.0, 1.0);
        }
        Range { min, max }.grid(config)
    }
}

impl fmt::Display for FallbackStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for FallbackStrategy {
    type Err = Error;

    /// # Errors
    /// [`Error::Config`] listing the names there are.
    fn from_str(name: &str) -> Result<Self, Error> {
        let found = FallbackStrategy::ALL.into_iter().find(|s| s.as_str() == name);
        found.ok_or_else(|| {
            let names = FallbackStrategy::ALL.map(FallbackStrategy::as_str).join(", ");
            Error::Config { message: format!("fallback is {name:?}, but can be: {names}") }
        })
    }
}

/// Quantizes `w` (out × in) from its weights alone. Groups are runs of stored columns; order,
/// damping and, but for [`FallbackStrategy::Rtn`], `mse` have no meaning here.
///
/// # Errors
/// As [`round_to_nearest`].
///
/// Costs one pass over the weights, and a sort of each group for the median.
///
/// ```
/// use gptq_core::{FallbackStrategy, QuantConfig, quantize_unseen};
///
/// let w = ndarray::array![[-1.0, 0.0, 2.0, 5.0f32]];
/// let config = QuantConfig { sym: false, ..QuantConfig::default() };
/// let q = quantize_unseen(w.view(), FallbackStrategy::Midpoint, &config).unwrap();
/// assert_eq!(q.scales, ndarray::array![[0.4]]);
/// assert_eq!(q.codes, ndarray::array![[0, 2, 7, 14]]);
/// ```
pub fn quantize_unseen(
    w: ArrayView2<'_, f32>,
    strategy: FallbackStrategy,
    config: &QuantConfig,
) -> Result<QuantizedMatrix, Error> {
    if strategy == FallbackStrategy::Rtn {
        return round_to_nearest(w, config);
    }
    round_to_grids(w, config, &Portable, |members| {
        let row = |row: ArrayView1<'_, f32>| strategy.grid(&row.to_vec(), config);
        RowGrids::new(members.columns().into_iter().map(row), config)
    })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use ndarray::{Array2, s};

    use super::*;
    use crate::{Bits, GroupSize};

    const SIZE: usize = 16;

    /// Rows with outliers and shifted means; every group of every row holds both signs.
    fn weights() -> Array2<f32> {
        let noise = |r: usize, c: usize| ((r * 7919 + c * 104_729) % 1013) as f32 / 1013.0 - 0.5;
        Array2::from_shape_fn((6, 3 * SIZE), |(r, c)| {
            let outlier = if (c + r) % SIZE == 3 { 2.5 } else { 1.0 };
            outlier * noise(r, c) + 0.05 * r as f32
        })
    }

    fn config(sym: bool) -> QuantConfig {
        let group_size = GroupSize::Columns(NonZeroUsize::new(SIZE).unwrap());
        QuantConfig { bits: Bits::B3, group_size, sym, ..QuantConfig::default() }
    }

    /// Scale and zero point by GPTQModel's formulas, in f64.
    fn formula(strategy: FallbackStrategy, w: &[f64]) -> (f64, f64) {
        let maxq = 7.0;
        let n = w.len() as f64;
        let min = w.iter().copied().fold(f64::INFINITY, f64::min);
        let max = w.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mean = w.iter().sum::<f64>() / n;
        let mut sorted = w.to_vec();
        sorted.sort_by(f64::total_cmp);
        let deviation = |c: f64| w.iter().map(|x| (x - c).abs()).fold(0.0, f64::max);
        let (centre, scale) = match strategy {
            FallbackStrategy::Midpoint => ((max + min) / 2.0, (max - min) / maxq),
            FallbackStrategy::Mean => (mean, 2.0 * deviation(mean) / maxq),
            FallbackStrategy::Median => {
                let median = sorted[(w.len() - 1) / 2];
                (median, 2.0 * deviation(median) / maxq)
            }
            FallbackStrategy::StdClip => {
                let variance = w.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
                (mean, 6.0 * variance.sqrt() / maxq)
            }
            FallbackStrategy::Rtn => unreachable!("has tests of its own"),
        };
        let zero = (maxq / 2.0 - centre / scale).round_ties_even().clamp(0.0, maxq);
        (scale, zero)
    }

    #[test]
    fn grids_are_those_of_the_plain_formulas() {
        let w = weights();
        for strategy in &FallbackStrategy::ALL[1..] {
            let q = quantize_unseen(w.view(), *strategy, &config(false)).unwrap();
            for r in 0..w.nrows() {
                for g in 0..3 {
                    let columns = g * SIZE..(g + 1) * SIZE;
                    let group: Vec<f64> =
                        w.slice(s![r, columns.clone()]).iter().map(|&x| f64::from(x)).collect();
                    let (scale, zero) = formula(*strategy, &group);
                    let found = f64::from(q.scales[(r, g)]);
                    assert!((found / scale - 1.0).abs() < 1e-5, "{strategy}: {found} {scale}");
                    assert_eq!(f64::from(q.zeros[(r, g)]), zero, "{strategy}");
                    for (c, x) in columns.zip(group) {
                        let code = ((x / scale).round() + zero).clamp(0.0, 7.0);
                        assert_eq!(f64::from(q.codes[(r, c)]), code, "{strategy} [{r}, {c}]");
                    }
                }
            }
        }
    }

    #[test]
    fn symmetric_grids_keep_the_middle_as_their_zero_point() {
        let w = weights();
        for strategy in FallbackStrategy::ALL {
            let q = quantize_unseen(w.view(), strategy, &config(true)).unwrap();
            assert!(q.zeros.iter().all(|&z| z == 4), "{strategy}");
        }
    }

    #[test]
    fn every_weight_is_within_a_step_of_its_level() {
        // Only stdclip clips; the others cover every weight, wherever 0 lies.
        let shifted = weights() + 3.0;
        for w in [weights(), shifted.clone(), -shifted] {
            for strategy in &FallbackStrategy::ALL[..4] {
                let q = quantize_unseen(w.view(), *strategy, &config(false)).unwrap();
                let gap = (&q.dequantize() - &w).mapv(f32::abs);
                for ((r, c), gap) in gap.indexed_iter() {
                    // A rounded zero point moves the ends of the grid by up to half a step.
                    let step = q.scales[(r, c / SIZE)];
                    assert!(*gap <= step * 1.001, "{strategy} [{r}, {c}]: {gap} of {step}");
                }
            }
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for strategy in FallbackStrategy::ALL {
            assert_eq!(strategy.as_str().parse(), Ok(strategy));
        }
        assert!("zeros".parse::<FallbackStrategy>().is_err());
    }
}
