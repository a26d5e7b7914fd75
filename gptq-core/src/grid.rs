//! Scale and zero point of one group, and the rounding they define.
//!
//! `q(x) = scale · (clamp(round(x / scale) + zero, 0, maxq) − zero)`, rounding half to even. Every
//! division is a true f32 division: multiplying by a reciprocal would move ties.

use half::f16;
use ndarray::Array2;

use crate::{GridSearch, QuantConfig, ScaleDtype};

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
        ((x / self.scale).round_ties_even() + self.zero).clamp(0.0, self.maxq)
    }

    /// The value a code stands for.
    #[inline(always)]
    pub fn decode(self, code: f32) -> f32 {
        self.scale * (code - self.zero)
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

/// The interval a grid covers.
#[derive(Clone, Copy)]
struct Range {
    min: f32,
    max: f32,
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

    fn shrink(self, share: f32) -> Self {
        Range { min: share * self.min, max: share * self.max }
    }

    fn grid(self, config: &QuantConfig) -> Grid {
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
}

fn round_scale(scale: f32, dtype: ScaleDtype) -> f32 {
    match dtype {
        ScaleDtype::F32 => scale,
        // A scale that vanished would divide by zero.
        ScaleDtype::F16 => f16::from_f32(scale).max(f16::from_bits(1)).to_f32(),
    }
}

/// Grids of one group for every row of a tile (in × rows): `positions` are the group's columns.
pub(crate) fn fit(tile: &Array2<f32>, positions: &[usize], config: &QuantConfig) -> Vec<Grid> {
    let mut min = vec![0f32; tile.ncols()];
    let mut max = vec![0f32; tile.ncols()];
    for &p in positions {
        for ((lo, hi), &x) in min.iter_mut().zip(&mut max).zip(tile.row(p)) {
            *lo = lo.min(x);
            *hi = hi.max(x);
        }
    }
    let ranges = min.iter().zip(&max).map(|(&lo, &hi)| Range::new(lo, hi, config.sym));
    match config.mse {
        None => ranges.map(|range| range.grid(config)).collect(),
        Some(search) => {
            let ranges: Vec<Range> = ranges.collect();
            shrink_search(tile, positions, &ranges, config, search)
        }
    }
}

/// The field's `mse`: of the ranges shrunk step by step, the one with the smallest
/// `Σ |q(x) − x|^norm`; the first wins ties.
fn shrink_search(
    tile: &Array2<f32>,
    positions: &[usize],
    ranges: &[Range],
    config: &QuantConfig,
    search: GridSearch,
) -> Vec<Grid> {
    let rows = tile.ncols();
    let mut best: Vec<Grid> = ranges.iter().map(|r| r.grid(config)).collect();
    let mut least = vec![f32::INFINITY; rows];
    for step in 0..(search.maxshrink * search.grid as f32) as u32 {
        // In f64, as the reference's Python computes it.
        let share = (1.0 - f64::from(step) / f64::from(search.grid)) as f32;
        let grids: Vec<Grid> = ranges.iter().map(|r| r.shrink(share).grid(config)).collect();
        let mut errors = vec![0f32; rows];
        for &p in positions {
            for ((error, grid), &x) in errors.iter_mut().zip(&grids).zip(tile.row(p)) {
                *error += (grid.decode(grid.encode(x)) - x).abs().powf(search.norm);
            }
        }
        for (((least, best), error), grid) in least.iter_mut().zip(&mut best).zip(errors).zip(grids)
        {
            if error < *least {
                (*least, *best) = (error, grid);
            }
        }
    }
    best
}
