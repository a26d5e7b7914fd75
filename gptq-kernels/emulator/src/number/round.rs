//! Rounding once, from what `f64` holds to a narrower format.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rounding {
    Nearest,
    /// Ties away from zero.
    NearestAway,
    Zero,
    Down,
    Up,
}

impl Rounding {
    /// To a whole number.
    pub(crate) fn whole(self, x: f64) -> f64 {
        match self {
            Self::Nearest => x.round_ties_even(),
            Self::NearestAway => x.round(),
            Self::Zero => x.trunc(),
            Self::Down => x.floor(),
            Self::Up => x.ceil(),
        }
    }
}

/// A binary format: bits of precision with the hidden one, and the exponents of normal numbers.
pub(crate) struct Format {
    precision: i32,
    least: i32,
    greatest: i32,
}

pub(crate) const F16: Format = Format { precision: 11, least: -14, greatest: 15 };
pub(crate) const BF16: Format = Format { precision: 8, least: -126, greatest: 127 };
pub(crate) const TF32: Format = Format { precision: 11, least: -126, greatest: 127 };
pub(crate) const F32: Format = Format { precision: 24, least: -126, greatest: 127 };

fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

impl Format {
    /// The nearest value of the format, itself exact as `f64`.
    pub(crate) fn round(&self, x: f64, how: Rounding) -> f64 {
        if x == 0.0 || !x.is_finite() {
            return x;
        }
        let exponent = ((x.to_bits() >> 52) & 0x7ff) as i32 - 1023;
        let largest = (2.0 - power_of_two(1 - self.precision)) * power_of_two(self.greatest);
        let overflow = match how {
            Rounding::Nearest | Rounding::NearestAway => f64::INFINITY,
            Rounding::Zero => largest,
            Rounding::Down => [largest, f64::INFINITY][usize::from(x < 0.0)],
            Rounding::Up => [f64::INFINITY, largest][usize::from(x < 0.0)],
        }
        .copysign(x);
        if exponent > self.greatest {
            return overflow;
        }
        let unit = exponent.max(self.least) - self.precision + 1;
        let rounded = how.whole(x * power_of_two(-unit)) * power_of_two(unit);
        if rounded.abs() > largest { overflow } else { rounded.copysign(x) }
    }
}

/// A sum that a narrower rounding may follow: what `f64` loses is kept in the last bit, so that
/// rounding twice gives what rounding once would.
pub(crate) fn sticky_add(a: f64, b: f64) -> f64 {
    let sum = a + b;
    if !sum.is_finite() || sum == 0.0 {
        return sum;
    }
    let part = sum - a;
    let lost = (a - (sum - part)) + (b - part);
    if lost == 0.0 || sum.to_bits() & 1 == 1 {
        return sum;
    }
    let outwards = (lost > 0.0) == (sum > 0.0);
    f64::from_bits(if outwards { sum.to_bits() + 1 } else { sum.to_bits() - 1 })
}

/// The value of a half-precision number's bits.
pub(crate) fn f16_value(bits: u64) -> f32 {
    let magnitude = (bits as u32 & 0x7fff) << 13;
    let value = if magnitude >= 0x7c00 << 13 {
        f32::from_bits(magnitude | 0x7f80_0000)
    } else {
        f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)
    };
    if bits & 0x8000 != 0 { -value } else { value }
}

/// The bits of a value that the format holds.
pub(crate) fn f16_bits(x: f64) -> u64 {
    if x.is_nan() {
        return 0x7fff;
    }
    let sign = u64::from(x.is_sign_negative()) << 15;
    let magnitude = x.abs() as f32;
    if magnitude.is_infinite() {
        return sign | 0x7c00;
    }
    // 2^-112 moves the exponent from one bias to the other, small numbers included.
    sign | u64::from((magnitude * f32::from_bits(0x0780_0000)).to_bits() >> 13)
}

/// The value of a bfloat's bits.
pub(crate) fn bf16_value(bits: u64) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// The bits of a value that the format holds.
pub(crate) fn bf16_bits(x: f64) -> u64 {
    if x.is_nan() { 0x7fff } else { u64::from((x as f32).to_bits() >> 16) }
}

pub(crate) fn to_f16(x: f64) -> u64 {
    f16_bits(F16.round(x, Rounding::Nearest))
}

pub(crate) fn to_bf16(x: f64) -> u64 {
    bf16_bits(BF16.round(x, Rounding::Nearest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_itself() {
        for bits in 0..=u16::MAX {
            let (wide, brain) = (half::f16::from_bits(bits), half::bf16::from_bits(bits));
            if !wide.is_nan() {
                assert_eq!(f16_value(bits.into()).to_bits(), wide.to_f32().to_bits());
                assert_eq!(to_f16(wide.to_f64()), u64::from(bits));
            }
            if !brain.is_nan() {
                assert_eq!(bf16_value(bits.into()).to_bits(), brain.to_f32().to_bits());
                assert_eq!(to_bf16(brain.to_f64()), u64::from(bits));
            }
        }
        assert!(f16_value(0x7e01).is_nan() && f16_value(to_f16(f64::NAN)).is_nan());
    }

    #[test]
    fn what_lies_between_goes_to_the_nearest() {
        for step in 0..1 << 20 {
            // Steps through all exponents, with bits that no half has.
            let x = f32::from_bits(step * 4093);
            if !x.is_nan() {
                assert_eq!(to_f16(x.into()), half::f16::from_f32(x).to_bits().into(), "{x:e}");
                assert_eq!(to_bf16(x.into()), half::bf16::from_f32(x).to_bits().into(), "{x:e}");
                assert_eq!(F32.round(x.into(), Rounding::Zero), f64::from(x));
            }
        }
    }

    #[test]
    fn a_sum_rounds_once() {
        // Just above the middle of two halves, by less than `f64` holds.
        let middle = 1.0 + 2f64.powi(-11);
        assert_eq!(to_f16(sticky_add(middle, 2f64.powi(-80))), 0x3c01);
        assert_eq!(to_f16(sticky_add(middle, -(2f64.powi(-80)))), 0x3c00);
        assert_eq!(to_f16(middle), 0x3c00);
    }

    #[test]
    fn directions() {
        let round = |x: f64, how| F32.round(x, how);
        let above = f64::from(f32::from_bits(0x3f80_0001));
        assert_eq!(round(1.0 + 1e-12, Rounding::Up), above);
        assert_eq!(round(1.0 + 1e-12, Rounding::Down), 1.0);
        assert_eq!(round(-1.0 - 1e-12, Rounding::Zero), -1.0);
        assert_eq!(round(-1.0 - 1e-12, Rounding::Down), -above);
        assert_eq!(round(1e39, Rounding::Zero), f64::from(f32::MAX));
        assert_eq!(round(1e39, Rounding::Up), f64::INFINITY);
    }
}
