//! `f32` and `f64` arithmetic on bits. What is "approximate" on a device is exact to rounding here.

use super::integer::{One, Three, Two};
use super::round::{F32, Rounding, sticky_add};
use crate::types::Ty;

fn f(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn d(bits: u64) -> f64 {
    f64::from_bits(bits)
}

fn b(x: f32) -> u64 {
    u64::from(x.to_bits())
}

/// Numbers too small for the normal format become zero.
pub(crate) fn flush(x: u64) -> u64 {
    let value = f(x);
    if value.is_subnormal() { u64::from(x as u32 & 0x8000_0000) } else { x }
}

/// Into zero to one; what is no number becomes zero.
pub(crate) fn saturate(ty: Ty) -> One {
    match ty {
        Ty::F64 => |x| if d(x) > 0.0 { d(x).min(1.0).to_bits() } else { 0 },
        _ => |x| if f(x) > 0.0 { b(f(x).min(1.0)) } else { 0 },
    }
}

/// The smaller by value; the other where one is no number; negative zero below zero.
pub(crate) fn least(x: f64, y: f64) -> f64 {
    if x.is_nan() || (!y.is_nan() && (y < x || (y == x && y.is_sign_negative()))) { y } else { x }
}

pub(crate) fn greatest(x: f64, y: f64) -> f64 {
    if x.is_nan() || (!y.is_nan() && (y > x || (y == x && y.is_sign_positive()))) { y } else { x }
}

/// As above, with what is no number passed on.
pub(crate) fn least_or_nan(x: f64, y: f64) -> f64 {
    if x.is_nan() || y.is_nan() { f64::NAN } else { least(x, y) }
}

pub(crate) fn greatest_or_nan(x: f64, y: f64) -> f64 {
    if x.is_nan() || y.is_nan() { f64::NAN } else { greatest(x, y) }
}

/// Picks one rounding's instance of an expression exact in `f64`.
macro_rules! directed {
    ($how:expr, |$($x:ident),+| $exact:expr) => {
        match $how {
            Rounding::Zero => |$($x),+| {
                $(let $x = f64::from(f($x));)+
                b(F32.round($exact, Rounding::Zero) as f32)
            },
            Rounding::Down => |$($x),+| {
                $(let $x = f64::from(f($x));)+
                b(F32.round($exact, Rounding::Down) as f32)
            },
            _ => |$($x),+| {
                $(let $x = f64::from(f($x));)+
                b(F32.round($exact, Rounding::Up) as f32)
            },
        }
    };
}

pub(crate) fn two(name: &str, ty: Ty, how: Rounding) -> Option<Two> {
    if ty == Ty::F64 {
        return Some(match name {
            "add" => |x, y| (d(x) + d(y)).to_bits(),
            "sub" => |x, y| (d(x) - d(y)).to_bits(),
            "mul" => |x, y| (d(x) * d(y)).to_bits(),
            "div" => |x, y| (d(x) / d(y)).to_bits(),
            "min" => |x, y| least(d(x), d(y)).to_bits(),
            "max" => |x, y| greatest(d(x), d(y)).to_bits(),
            "copysign" => |x, y| d(y).copysign(d(x)).to_bits(),
            _ => return None,
        });
    }
    let nearest = how == Rounding::Nearest;
    Some(match name {
        "add" if nearest => |x, y| b(f(x) + f(y)),
        "sub" if nearest => |x, y| b(f(x) - f(y)),
        "mul" if nearest => |x, y| b(f(x) * f(y)),
        "div" if nearest => |x, y| b(f(x) / f(y)),
        "add" => directed!(how, |x, y| sticky_add(x, y)),
        "sub" => directed!(how, |x, y| sticky_add(x, -y)),
        "mul" => directed!(how, |x, y| x * y),
        "div" => directed!(how, |x, y| x / y),
        "min" => |x, y| b(least(f(x).into(), f(y).into()) as f32),
        "max" => |x, y| b(greatest(f(x).into(), f(y).into()) as f32),
        "min.NaN" => |x, y| b(least_or_nan(f(x).into(), f(y).into()) as f32),
        "max.NaN" => |x, y| b(greatest_or_nan(f(x).into(), f(y).into()) as f32),
        "copysign" => |x, y| b(f(y).copysign(f(x))),
        _ => return None,
    })
}

pub(crate) fn fma(ty: Ty, how: Rounding) -> Three {
    if ty == Ty::F64 {
        return |x, y, z| d(x).mul_add(d(y), d(z)).to_bits();
    }
    if how != Rounding::Nearest {
        return directed!(how, |x, y, z| sticky_add(x * y, z));
    }
    |x, y, z| {
        // The product is exact in `f64`, and the sum keeps what it loses: one rounding in all.
        let product = f64::from(f(x)) * f64::from(f(y));
        b(sticky_add(product, f(z).into()) as f32)
    }
}

pub(crate) fn one(name: &str, ty: Ty, how: Rounding) -> Option<One> {
    if ty == Ty::F64 {
        return Some(match name {
            "neg" => |x| (-d(x)).to_bits(),
            "abs" => |x| d(x).abs().to_bits(),
            "rcp" => |x| (1.0 / d(x)).to_bits(),
            "sqrt" => |x| d(x).sqrt().to_bits(),
            "rsqrt" => |x| (1.0 / d(x).sqrt()).to_bits(),
            _ => return None,
        });
    }
    let nearest = how == Rounding::Nearest;
    Some(match name {
        "neg" => |x| b(-f(x)),
        "abs" => |x| b(f(x).abs()),
        "rcp" if nearest => |x| b(1.0 / f(x)),
        "rcp" => directed!(how, |x| 1.0 / x),
        "sqrt" if nearest => |x| b(f(x).sqrt()),
        "sqrt" => directed!(how, |x| x.sqrt()),
        "rsqrt" => |x| b((1.0 / f64::from(f(x)).sqrt()) as f32),
        "ex2" => |x| b(libm::exp2(f(x).into()) as f32),
        "lg2" => |x| b(f64::from(f(x)).log2() as f32),
        "sin" => |x| b(f64::from(f(x)).sin() as f32),
        "cos" => |x| b(f64::from(f(x)).cos() as f32),
        "tanh" => |x| b(f64::from(f(x)).tanh() as f32),
        _ => return None,
    })
}

/// The questions of `testp`.
pub(crate) fn test(name: &str, ty: Ty) -> Option<One> {
    macro_rules! ask {
        ($question:ident) => {
            match ty {
                Ty::F64 => |x| u64::from(d(x).$question()),
                _ => |x| u64::from(f(x).$question()),
            }
        };
    }
    Some(match name {
        "finite" => ask!(is_finite),
        "infinite" => ask!(is_infinite),
        "notanumber" => ask!(is_nan),
        "normal" => ask!(is_normal),
        "subnormal" => ask!(is_subnormal),
        "number" => match ty {
            Ty::F64 => |x| u64::from(!d(x).is_nan()),
            _ => |x| u64::from(!f(x).is_nan()),
        },
        _ => return None,
    })
}
