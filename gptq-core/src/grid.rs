//! Scale and zero point of one group, and the rounding they define.
//!
//! `q(x) = scale · (clamp(round(x / scale) + zero, 0, maxq) − zero)`, rounding half to even. Every
//! division is a true f32 division: multiplying by a reciprocal would move ties.

use half::f16;
use ndarray::ArrayView2;

use crate::{Linalg, Loop, QuantConfig, ScaleDtype, grid_search::shrink_search};

/// The quantization levels of one row in one group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// Distance between levels, above 0.
    pub scale: f32,
    /// The code of the value 0; an integer in `0..=maxq`.
    pub zero: f32,
    /// The largest code.
    pub maxq: f32,
}

impl Grid {
    /// The code nearest to `x`, an integer in `0..=maxq`.
    #[inline(always)]
    pub fn encode(self, x: f32) -> f32 {
        // Whatever is beyond 1024 steps is beyond the last code.
        let steps = round_small((x / self.scale).clamp(-1024.0, 1024.0));
        (steps + self.zero).clamp(0.0, self.maxq)
    }

    /// The value a code stands for.
    #[inline(always)]
    pub fn decode(self, code: f32) -> f32 {
        self.scale * (code - self.zero)
    }

    /// The level nearest to `x`.
    #[inline(always)]
    pub fn round(self, x: f32) -> f32 {
        self.decode(self.encode(x))
    }

    /// The grid of a row, as the reference's `find_params` chooses it.
    ///
    /// The range always includes 0. A row of zeros gets the range ±1. A symmetric row without
    /// negative values keeps 0 as its lower end, so its largest values saturate: a quirk of the
    /// reference that its checkpoints carry, kept for parity.
    ///
    /// ```
    /// use gptq_core::{Grid, QuantConfig};
    ///
    /// let grid = Grid::of([-1.0, 0.0, 2.0, 4.0], &QuantConfig::default());
    /// assert_eq!((grid.scale, grid.zero), (0.53333336, 8.0));
    /// ```
    pub fn of(row: impl IntoIterator<Item = f32>, config: &QuantConfig) -> Grid {
        let (min, max) = row.into_iter().fold((0f32, 0f32), |(lo, hi), x| (lo.min(x), hi.max(x)));
        Range::new(min, max, config.sym).grid(config)
    }
}

/// 1.5 · 2²³: around it, floats are a unit apart.
pub(crate) const UNIT_STEPS: f32 = 12_582_912.0;

/// Rounds half to even for |x| < 2²². Unlike `round_ties_even` it needs no instruction that some
/// CPUs lack, so loops of it become vector instructions.
#[inline(always)]
fn round_small(x: f32) -> f32 {
    (x + UNIT_STEPS) - UNIT_STEPS
}

/// The interval a grid covers; 0 is inside.
#[derive(Clone, Copy)]
pub(crate) struct Range {
    pub(crate) min: f32,
    pub(crate) max: f32,
}

impl Range {
    fn new(min: f32, max: f32, sym: bool) -> Self {
        let mut range = Range { min, max };
        if sym {
            range.max = max.max(-min);
            if min < 0.0 {
                range.min = -range.max;
            }
        }
        if range.min == 0.0 && range.max == 0.0 {
            range = Range { min: -1.0, max: 1.0 };
        }
        range
    }

    pub(crate) fn shrink(self, share: f32) -> Self {
        Range { min: share * self.min, max: share * self.max }
    }

    pub(crate) fn grid(self, config: &QuantConfig) -> Grid {
        let maxq = f32::from(config.bits.maxq());
        let scale = round_scale((self.max - self.min) / maxq, config.scale_dtype);
        if config.sym {
            return Grid { scale, zero: (maxq + 1.0) / 2.0, maxq };
        }
        let zero = (-self.min / scale).round_ties_even().clamp(0.0, maxq);
        let min_zero = f32::from(config.min_zero);
        if zero < min_zero {
            // The levels above the raised zero point must still reach both ends.
            let reach = (self.max / (maxq - min_zero)).max(-self.min / min_zero);
            return Grid { scale: round_scale(reach, config.scale_dtype), zero: min_zero, maxq };
        }
        Grid { scale, zero: zero + 0.0, maxq }
    }

    /// The same with the zero point on the other side of `-min / scale`, where that is allowed:
    /// with few levels, either may serve a row better.
    pub(crate) fn other_grid(self, config: &QuantConfig) -> Grid {
        let grid = self.grid(config);
        let exact = -self.min / grid.scale;
        let zero = if exact < grid.zero { exact.floor() } else { exact.ceil() };
        let least = f32::from(config.min_zero);
        Grid { zero: zero.clamp(least, grid.maxq), ..grid }
    }
}

fn round_scale(scale: f32, dtype: ScaleDtype) -> f32 {
    match dtype {
        ScaleDtype::F32 => scale,
        // A scale that vanished would divide by zero.
        ScaleDtype::F16 => f16::from_f32(scale).max(f16::from_bits(1)).to_f32(),
    }
}

/// Grids of one group, one for each row of a layer: what lies side by side is read side by side.
#[derive(Clone, Debug)]
pub(crate) struct RowGrids {
    pub(crate) scales: Vec<f32>,
    pub(crate) zeros: Vec<f32>,
    pub(crate) maxq: f32,
}

impl RowGrids {
    pub(crate) fn new(grids: impl IntoIterator<Item = Grid>, config: &QuantConfig) -> Self {
        let (scales, zeros) = grids.into_iter().map(|grid| (grid.scale, grid.zero)).unzip();
        Self { scales, zeros, maxq: f32::from(config.bits.maxq()) }
    }
}

/// Grids of one group for every row of a layer; `members` are the group's columns × rows.
pub(crate) fn fit(
    members: ArrayView2<'_, f32>,
    config: &QuantConfig,
    linalg: &dyn Linalg,
) -> RowGrids {
    let mut min = vec![0f32; members.ncols()];
    let mut max = vec![0f32; members.ncols()];
    linalg.run(Loop::extent(members, &mut min, &mut max));
    let ranges = min.iter().zip(&max).map(|(&lo, &hi)| Range::new(lo, hi, config.sym));
    match config.mse {
        None => RowGrids::new(ranges.map(|range| range.grid(config)), config),
        Some(search) => {
            let ranges: Vec<Range> = ranges.collect();
            shrink_search(members, &ranges, config, search, linalg)
        }
    }
}
