//! The field's `mse`: of ranges shrunk step by step, the one whose grid errs least.

use ndarray::ArrayView2;

use crate::{
    Bits, GridSearch, Linalg, Loop, QuantConfig,
    grid::{Range, RowGrids, UNIT_STEPS},
};

/// For each row of `members` (columns × rows), the grid with the smallest `Σ |q(x) − x|^norm` among
/// those of its shrunken range; the first wins ties.
///
/// Costs two divisions and a power per weight and candidate.
pub(crate) fn shrink_search(
    members: ArrayView2<'_, f32>,
    ranges: &[Range],
    config: &QuantConfig,
    search: GridSearch,
    linalg: &dyn Linalg,
) -> RowGrids {
    let mut best = RowGrids::new(ranges.iter().map(|r| r.grid(config)), config);
    let mut least = vec![f32::INFINITY; ranges.len()];
    // Errors are measured in a power of two near the range: exact, and powers stay in reach.
    let units: Vec<f32> =
        ranges.iter().map(|r| power_of_two_above(r.max - r.min).recip()).collect();
    let mut challenge = |candidates: RowGrids| {
        let mut errors = vec![0f32; ranges.len()];
        linalg.run(Loop::misfit(members, &candidates, &units, search.norm, &mut errors));
        for (r, &error) in errors.iter().enumerate() {
            if error < least[r] {
                least[r] = error;
                (best.scales[r], best.zeros[r]) = (candidates.scales[r], candidates.zeros[r]);
            }
        }
    };
    let alternate = search.both_zeros && config.bits == Bits::B2 && !config.sym;
    for step in 0..(search.maxshrink * search.grid as f32) as u32 {
        // In f64, as the reference's Python computes it.
        let share = (1.0 - f64::from(step) / f64::from(search.grid)) as f32;
        let shrunk = || ranges.iter().map(|r| r.shrink(share));
        challenge(RowGrids::new(shrunk().map(|r| r.grid(config)), config));
        if alternate {
            challenge(RowGrids::new(shrunk().map(|r| r.other_grid(config)), config));
        }
    }
    best
}

/// A power of two that is at least `x` and less than four times as large.
fn power_of_two_above(x: f32) -> f32 {
    // Exponents that leave the reciprocal a normal number.
    let exponent = (x.to_bits() >> 23).clamp(2, 250) + 1;
    f32::from_bits(exponent << 23)
}

/// `x^y` for x ≥ 0, without branches; `y·log2(x)` is clamped to f32's exponents. Relatively within
/// 3e-7 near x = 1, and 9e-8 more for each power of two away from it.
#[inline(always)]
pub(crate) fn power(x: f32, y: f32) -> f32 {
    exp2((y * log2(x)).clamp(-126.0, 126.0))
}

/// `x = 2^e · m` with m in [√½, √2); then `ln m = 2 artanh s` for `s = (m − 1) / (m + 1)`.
#[inline(always)]
fn log2(x: f32) -> f32 {
    const SQRT_HALF: u32 = 0x3F35_04F3;
    let shifted = x.to_bits().wrapping_sub(SQRT_HALF);
    let exponent = (shifted as i32) >> 23;
    let m = f32::from_bits((shifted & 0x007F_FFFF) + SQRT_HALF);
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    // 2/ln 2 · (1, 1/3, 1/5, 1/7)
    let series = 2.885_39 + z * (0.961_796_7 + z * (0.577_078 + z * 0.412_198_6));
    exponent as f32 + s * series
}

/// `2^x` for |x| ≤ 126: the integer part into the exponent, Taylor's series for the rest.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    let whole = x + UNIT_STEPS;
    let f = (x - (whole - UNIT_STEPS)) * std::f32::consts::LN_2;
    let tail = 1.0 / 24.0 + f * (1.0 / 120.0 + f * (1.0 / 720.0 + f * (1.0 / 5040.0)));
    let series = 1.0 + f * (1.0 + f * (0.5 + f * (1.0 / 6.0 + f * tail)));
    // Between numbers a unit apart, bits count as integers do.
    let integer = whole.to_bits().wrapping_sub(UNIT_STEPS.to_bits());
    series * f32::from_bits(integer.wrapping_add(127) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_those_of_the_standard_library() {
        for i in 1..200_000u32 {
            let x = i as f32 / 190_000.0;
            for y in [1.0, 2.0, 2.4, 3.5] {
                let want = f64::from(x).powf(f64::from(y));
                let error = (f64::from(power(x, y)) / want - 1.0).abs();
                // log2(x) and its product with y are each rounded by at most 2⁻²⁴ of their size.
                let allowed = 3e-7 + 9e-8 * (f64::from(y) * f64::from(x).log2()).abs();
                assert!(error <= allowed, "{x}^{y}: {error:e}");
            }
        }
        assert!(power(0.0, 2.4) < 1e-37 && power(f32::MIN_POSITIVE / 8.0, 2.4) < 1e-37);
        assert_eq!(power(1.0, 2.4), 1.0);
    }

    #[test]
    fn units_are_powers_of_two_near_the_range() {
        for x in [1e-45, 1e-38, 1e-3, 0.5, 1.0, 1.5, 3e4, 3e38, f32::INFINITY] {
            let unit = power_of_two_above(x);
            assert_eq!(unit.to_bits() & 0x007F_FFFF, 0);
            assert!(unit.recip().is_normal());
            if (1e-30..1e30).contains(&x) {
                assert!(x < unit && unit <= 2.0 * x, "{x}: {unit}");
            }
        }
    }
}
