//! `exp` as arithmetic the compiler can vectorise, which a call into the C library is not.

use super::isa::mul_add;

/// `eˣ` within 2 units in the last place for x in [-87, 88]; 0 below and infinity above.
///
/// `eˣ = 2ⁿ · eʳ` with `n = round(x / ln 2)`; r is small enough for a Taylor polynomial.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // ln 2 in two parts: n · LN2_HIGH is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-87.3, 88.7);
    let n = (clamped * std::f32::consts::LOG2_E).round_ties_even();
    let r = mul_add::<FMA>(n, -LN2_LOW, mul_add::<FMA>(n, -LN2_HIGH, clamped));
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = mul_add::<FMA>(p, r, c);
    }
    // 2ⁿ in two halves, because n = 128 does not fit one exponent.
    let half = (n * 0.5).floor();
    let y = p * pow2(half) * pow2(n - half);
    if x < -87.3 {
        0.0
    } else if x > 88.7 {
        f32::INFINITY
    } else {
        y
    }
}

#[inline(always)]
fn pow2(n: f32) -> f32 {
    f32::from_bits(((n as i32 + 127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn agrees_with_the_library() {
        for i in -8800..8800 {
            let x = i as f32 / 100.0;
            let (want, got) = (f64::from(x).exp(), f64::from(exp::<false>(x)));
            if x > -87.0 {
                assert!((got / want - 1.0).abs() < 3e-7, "exp({x}) = {got}, want {want}");
            }
        }
        assert_eq!(exp::<false>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<false>(f32::INFINITY), f32::INFINITY);
        assert!(exp::<false>(f32::NAN).is_nan());
    }
}
