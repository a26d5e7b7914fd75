//! `cvt`: every type to every other.

use super::float;
use super::round::{BF16, F16, F32, Rounding, TF32, bf16_bits, bf16_value, f16_bits, f16_value};
use crate::types::Ty;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Convert {
    pub(crate) to: Ty,
    pub(crate) from: Ty,
    pub(crate) rounding: Rounding,
    /// Round to a whole number even where the result is a float.
    pub(crate) whole: bool,
    pub(crate) saturate: bool,
    pub(crate) flush: bool,
    pub(crate) relu: bool,
}

impl Convert {
    pub(crate) fn apply(&self, raw: u64) -> u64 {
        match (self.from.is_float(), self.to.is_float()) {
            (false, false) => self.to.extend(self.clamped(self.from.integer(raw), false) as u64),
            (false, true) => self.store(self.whole_number(raw)),
            (true, false) => {
                let value = self.rounding.whole(self.load(raw));
                self.to.extend(self.clamped(value as i128, true) as u64)
            }
            (true, true) => {
                let value = self.load(raw);
                self.store(if self.whole { self.rounding.whole(value) } else { value })
            }
        }
    }

    fn load(&self, raw: u64) -> f64 {
        match self.from {
            Ty::F16 => f16_value(raw).into(),
            Ty::Bf16 => bf16_value(raw).into(),
            Ty::F64 => f64::from_bits(raw),
            _ => {
                let raw = if self.flush { float::flush(raw) } else { raw };
                f32::from_bits(raw as u32).into()
            }
        }
    }

    /// Exact where `f64` holds the number; a last bit kept for the next rounding where it does not.
    fn whole_number(&self, raw: u64) -> f64 {
        let value = self.from.integer(raw);
        if self.to == Ty::F64 {
            return value as f64;
        }
        let magnitude = value.unsigned_abs() as u64;
        let spare = 64u32.saturating_sub(magnitude.leading_zeros()).saturating_sub(53);
        let lost = magnitude & ((1 << spare) - 1);
        let kept = (magnitude - lost) | if lost == 0 { 0 } else { 1 << spare };
        if value < 0 { -(kept as f64) } else { kept as f64 }
    }

    fn clamped(&self, value: i128, always: bool) -> i128 {
        if !self.saturate && !always {
            return value;
        }
        let bits = self.to.bits();
        let (least, greatest) = if self.to.is_signed() {
            (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
        } else {
            (0, (1i128 << bits) - 1)
        };
        value.clamp(least, greatest)
    }

    fn store(&self, value: f64) -> u64 {
        let value = if self.relu && value < 0.0 { 0.0 } else { value };
        let value = match self.saturate {
            true if value > 0.0 => value.min(1.0),
            true => 0.0,
            false => value,
        };
        match self.to {
            Ty::F16 => f16_bits(F16.round(value, self.rounding)),
            Ty::Bf16 => bf16_bits(BF16.round(value, self.rounding)),
            Ty::F64 => value.to_bits(),
            Ty::Tf32 => u64::from((TF32.round(value, self.rounding) as f32).to_bits()),
            _ => {
                let narrow = if self.rounding == Rounding::Nearest || value.is_nan() {
                    value as f32
                } else {
                    F32.round(value, self.rounding) as f32
                };
                let bits = u64::from(narrow.to_bits());
                if self.flush { float::flush(bits) } else { bits }
            }
        }
    }
}

/// Two `f32` into one word: the first goes into the high half.
pub(crate) fn pack(ty: Ty, rounding: Rounding, relu: bool) -> fn(u64, u64) -> u64 {
    fn both(ty: Ty, rounding: Rounding, relu: bool, a: u64, b: u64) -> u64 {
        let how = Convert {
            to: ty,
            from: Ty::F32,
            rounding,
            whole: false,
            saturate: false,
            flush: false,
            relu,
        };
        how.apply(a) << 16 | how.apply(b)
    }
    use Rounding::{Nearest, Zero};
    match (ty, rounding, relu) {
        (Ty::F16, Zero, false) => |a, b| both(Ty::F16, Zero, false, a, b),
        (Ty::F16, Zero, true) => |a, b| both(Ty::F16, Zero, true, a, b),
        (Ty::F16, _, false) => |a, b| both(Ty::F16, Nearest, false, a, b),
        (Ty::F16, _, true) => |a, b| both(Ty::F16, Nearest, true, a, b),
        (_, Zero, false) => |a, b| both(Ty::Bf16, Zero, false, a, b),
        (_, Zero, true) => |a, b| both(Ty::Bf16, Zero, true, a, b),
        (_, _, false) => |a, b| both(Ty::Bf16, Nearest, false, a, b),
        (_, _, true) => |a, b| both(Ty::Bf16, Nearest, true, a, b),
    }
}
