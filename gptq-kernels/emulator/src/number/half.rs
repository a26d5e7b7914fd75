//! Half precision and bfloat, single and in pairs: computed in `f64`, rounded once.

use super::float::{greatest, greatest_or_nan, least, least_or_nan};
use super::integer::{One, Three, Two};
use super::round::{bf16_value, f16_value, sticky_add, to_bf16, to_f16};
use crate::types::Ty;

/// Picks one type's instance of an expression on values.
macro_rules! by_half {
    ($ty:expr, |$($x:ident),+| $body:expr) => {
        match $ty {
            Ty::F16 => Some(|$($x: u64),+| {
                $(let $x = f64::from(f16_value($x));)+
                to_f16($body)
            }),
            Ty::Bf16 => Some(|$($x: u64),+| {
                $(let $x = f64::from(bf16_value($x));)+
                to_bf16($body)
            }),
            Ty::F16x2 => Some(|$($x: u64),+| {
                let high = { $(let $x = f64::from(f16_value($x >> 16));)+ to_f16($body) };
                $(let $x = f64::from(f16_value($x));)+
                high << 16 | to_f16($body)
            }),
            Ty::Bf16x2 => Some(|$($x: u64),+| {
                let high = { $(let $x = f64::from(bf16_value($x >> 16));)+ to_bf16($body) };
                $(let $x = f64::from(bf16_value($x));)+
                high << 16 | to_bf16($body)
            }),
            _ => None,
        }
    };
}

fn unit(x: f64) -> f64 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

fn positive(x: f64) -> f64 {
    if x.is_nan() { x } else { greatest(x, 0.0) }
}

pub(crate) fn two(name: &str, ty: Ty) -> Option<Two> {
    match name {
        "add" => by_half!(ty, |x, y| sticky_add(x, y)),
        "sub" => by_half!(ty, |x, y| sticky_add(x, -y)),
        "mul" => by_half!(ty, |x, y| x * y),
        "min" => by_half!(ty, |x, y| least(x, y)),
        "max" => by_half!(ty, |x, y| greatest(x, y)),
        "min.NaN" => by_half!(ty, |x, y| least_or_nan(x, y)),
        "max.NaN" => by_half!(ty, |x, y| greatest_or_nan(x, y)),
        _ => None,
    }
}

pub(crate) fn fma(ty: Ty, relu: bool) -> Option<Three> {
    if relu {
        by_half!(ty, |x, y, z| positive(sticky_add(x * y, z)))
    } else {
        by_half!(ty, |x, y, z| sticky_add(x * y, z))
    }
}

/// The sign alone changes in `neg` and `abs`, whatever the other bits are.
pub(crate) fn one(name: &str, ty: Ty) -> Option<One> {
    match (name, ty) {
        ("neg", Ty::F16 | Ty::Bf16) => Some(|x| (x ^ 0x8000) & 0xffff),
        ("neg", Ty::F16x2 | Ty::Bf16x2) => Some(|x| (x ^ 0x8000_8000) & 0xffff_ffff),
        ("abs", Ty::F16 | Ty::Bf16) => Some(|x| x & 0x7fff),
        ("abs", Ty::F16x2 | Ty::Bf16x2) => Some(|x| x & 0x7fff_7fff),
        ("ex2", _) => by_half!(ty, |x| libm::exp2(x)),
        ("tanh", _) => by_half!(ty, |x| x.tanh()),
        ("sat", _) => by_half!(ty, |x| unit(x)),
        _ => None,
    }
}
