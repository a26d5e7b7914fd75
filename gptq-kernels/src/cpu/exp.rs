//! `exp` and what is made of it, as arithmetic the compiler can vectorise, which a call into the C
//! library is not.

use super::isa::mul_add;

/// `eˣ` within 2 units in the last place for x in [-87, 88]; 0 below and infinity above.
///
/// `eˣ = 2ⁿ · eʳ` with `n = round(x / ln 2)`; r is small enough for a Taylor polynomial.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    let (n, r) = reduce::<FMA>(x.clamp(-87.3, 88.7));
    let p = mul_add::<FMA>(taylor::<FMA>(r), r, 1.0);
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

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// `tanh x` within 4 units in the last place, near 0 too.
///
/// `tanh a = −m / (2 + m)` with `m = e⁻²ᵃ − 1`, and m comes as `2ⁿ (eʳ − 1) + (2ⁿ − 1)`, in which
/// nothing is lost where m is small: there n is 0.
#[inline(always)]
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    // 1 − tanh 10 is less than half a unit in the last place of 1.
    let a = x.abs().clamp(0.0, 10.0);
    let (n, r) = reduce::<FMA>(-2.0 * a);
    let scale = pow2(n);
    let m = mul_add::<FMA>(scale, taylor::<FMA>(r) * r, scale - 1.0);
    (-m / (2.0 + m)).copysign(x)
}

/// `Φ(x)`, the distribution function of the normal distribution, within 1e-7 everywhere and within
/// 1e-6 of its size while `|x| < 13`; 0 or 1 beyond.
///
/// Near 0 it is `1/2 + x · p(x²)`. Elsewhere `Φ(−a) = e^(−a²/2) · g(a)`, and `(1 + a) · g(a)` is so
/// smooth in `(a − 4)/(a + 4)` (the substitution of Shepherd and Laframboise, 1981) that a
/// polynomial meets it within 2e-8. Both polynomials are fitted at Chebyshev nodes: of x² in
/// [0, 1] and of a in [0, 14].
#[inline(always)]
pub(crate) fn normal_cdf<const FMA: bool>(x: f32) -> f32 {
    let a = x.abs().clamp(0.0, 14.0);
    let square = a * a;
    let p = [9.431_737e-5, -1.169_519_3e-3, 9.967_302e-3, -6.648_961e-2, 0.398_942_26];
    let near = mul_add::<FMA>(x, horner::<FMA, 5>(p, square), 0.5);

    // The exponent is large: its rounding error, too, times e^(−a²/2).
    let gauss = exp::<FMA>(-0.5 * square);
    let gauss = gauss - gauss * 0.5 * square_error::<FMA>(a, square);
    let p = [
        -7.341_341e-5,
        -6.448_407e-5,
        6.917_958_4e-4,
        -3.011_153e-4,
        -5.003e-3,
        1.793_962_9e-2,
        -3.219_762_4e-2,
        2.860_002_6e-2,
        1.399_962_3e-2,
        -9.670_347e-2,
        0.472_053_2,
    ];
    let tail = gauss * horner::<FMA, 11>(p, (a - 4.0) / (a + 4.0)) / (1.0 + a);
    if a < 1.0 {
        near
    } else if x < 0.0 {
        tail
    } else {
        1.0 - tail
    }
}

/// n and r with `x = n · ln 2 + r` and `|r| ≤ ln 2 / 2`.
#[inline(always)]
fn reduce<const FMA: bool>(x: f32) -> (f32, f32) {
    // ln 2 in two parts: n · LN2_HIGH is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    (n, mul_add::<FMA>(n, -LN2_LOW, mul_add::<FMA>(n, -LN2_HIGH, x)))
}

/// `(eʳ − 1) / r`.
#[inline(always)]
fn taylor<const FMA: bool>(r: f32) -> f32 {
    let p = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0];
    horner::<FMA, 7>(p, r)
}

/// The polynomial with these coefficients, highest power first.
#[inline(always)]
fn horner<const FMA: bool, const N: usize>(coefficients: [f32; N], x: f32) -> f32 {
    let mut p = coefficients[0];
    for &c in &coefficients[1..] {
        p = mul_add::<FMA>(p, x, c);
    }
    p
}

/// `a² − square` where `square` is a² rounded.
#[inline(always)]
fn square_error<const FMA: bool>(a: f32, square: f32) -> f32 {
    if FMA {
        return a.mul_add(a, -square);
    }
    // Squares of half the digits are exact.
    let high = f32::from_bits(a.to_bits() & 0xFFFF_F000);
    let low = a - high;
    (high * high - square) + 2.0 * high * low + low * low
}

/// `2ⁿ` for a whole n in [-126, 127]. Beside 1.5 · 2²³ a float has no fraction, so n + 127 stands in
/// its lowest bits; a cast to an integer, which must look after NaN, would not be vectorised.
#[inline(always)]
fn pow2(n: f32) -> f32 {
    f32::from_bits((n + (12_582_912.0 + 127.0)).to_bits() << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_the_library() {
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

    /// From 1e-30 to 30, both signs.
    fn sizes() -> impl Iterator<Item = f32> {
        (0..30_000).map(|i| 30.0 * 1.005f32.powi(-i / 2) * if i % 2 == 0 { 1.0 } else { -1.0 })
    }

    #[test]
    fn tanh_keeps_its_digits_near_zero() {
        for x in sizes().filter(|x| x.abs() > 1e-30) {
            let want = f64::from(x).tanh();
            for got in [tanh::<false>(x), tanh::<true>(x)] {
                assert!((f64::from(got) / want - 1.0).abs() < 4e-7, "tanh({x}) = {got}");
            }
        }
        assert_eq!(tanh::<false>(0.0), 0.0);
        assert_eq!(tanh::<false>(f32::NEG_INFINITY), -1.0);
        assert!(tanh::<false>(f32::NAN).is_nan());
    }

    #[test]
    fn normal_cdf_keeps_its_digits_in_the_tail() {
        for x in sizes().filter(|x| x.abs() < 13.0) {
            let want = 0.5 * libm::erfc(-f64::from(x) / 2f64.sqrt());
            for got in [normal_cdf::<false>(x), normal_cdf::<true>(x)] {
                assert!((f64::from(got) / want - 1.0).abs() < 1e-6, "Φ({x}) = {got}, not {want}");
                assert!((f64::from(got) - want).abs() < 1e-7, "Φ({x}) = {got}, not {want}");
            }
        }
        assert_eq!(normal_cdf::<false>(f32::NEG_INFINITY), 0.0);
        assert_eq!(normal_cdf::<false>(f32::INFINITY), 1.0);
        assert!(normal_cdf::<false>(f32::NAN).is_nan());
    }
}
