//! Whole-number arithmetic by name and type.

use crate::types::Ty;

pub(crate) type One = fn(u64) -> u64;
pub(crate) type Two = fn(u64, u64) -> u64;
pub(crate) type Three = fn(u64, u64, u64) -> u64;

/// Picks one instance of an expression by the type's width and sign.
macro_rules! by_type {
    ($ty:expr, |$a:ident $(, $rest:ident)*| $body:expr) => {
        match $ty {
            Ty::U16 | Ty::B16 => Some(by_type!(@ u16, $a $(, $rest)*; $body)),
            Ty::S16 => Some(by_type!(@ i16, $a $(, $rest)*; $body)),
            Ty::U32 | Ty::B32 => Some(by_type!(@ u32, $a $(, $rest)*; $body)),
            Ty::S32 => Some(by_type!(@ i32, $a $(, $rest)*; $body)),
            Ty::U64 | Ty::B64 => Some(by_type!(@ u64, $a $(, $rest)*; $body)),
            Ty::S64 => Some(by_type!(@ i64, $a $(, $rest)*; $body)),
            _ => None,
        }
    };
    (@ $t:ty, $a:ident; $body:expr) => {
        |$a: u64| { let $a = $a as $t; ($body) as u64 }
    };
    (@ $t:ty, $a:ident, $b:ident; $body:expr) => {
        |$a: u64, $b: u64| { let ($a, $b) = ($a as $t, $b as $t); ($body) as u64 }
    };
    (@ $t:ty, $a:ident, $b:ident, $c:ident; $body:expr) => {
        |$a: u64, $b: u64, $c: u64| {
            let ($a, $b, $c) = ($a as $t, $b as $t, $c as $t);
            ($body) as u64
        }
    };
}

/// As above for products in twice the width: `high` or `wide` of the exact product.
macro_rules! product {
    ($ty:expr, |$p:ident, $bits:ident| $body:expr) => {
        match $ty {
            Ty::U16 => Some(product!(@ u16, u32, 16, $p, $bits; $body)),
            Ty::S16 => Some(product!(@ i16, i32, 16, $p, $bits; $body)),
            Ty::U32 => Some(product!(@ u32, u64, 32, $p, $bits; $body)),
            Ty::S32 => Some(product!(@ i32, i64, 32, $p, $bits; $body)),
            Ty::U64 => Some(product!(@ u64, u128, 64, $p, $bits; $body)),
            Ty::S64 => Some(product!(@ i64, i128, 64, $p, $bits; $body)),
            _ => None,
        }
    };
    (@ $t:ty, $w:ty, $n:literal, $p:ident, $bits:ident; $body:expr) => {
        |a: u64, b: u64| {
            let $p = <$w>::from(a as $t) * <$w>::from(b as $t);
            let $bits = $n;
            let _ = $bits;
            ($body) as u64
        }
    };
}

/// Division by zero has no defined result; all ones is what devices give.
pub(crate) fn two(name: &str, ty: Ty) -> Option<Two> {
    match name {
        "add" => by_type!(ty, |a, b| a.wrapping_add(b)),
        "sub" => by_type!(ty, |a, b| a.wrapping_sub(b)),
        "mul.lo" | "mul" => by_type!(ty, |a, b| a.wrapping_mul(b)),
        "mul.hi" => product!(ty, |p, bits| p >> bits),
        "mul.wide" => product!(ty, |p, bits| p),
        "div" => by_type!(ty, |a, b| if b == 0 { !0 } else { a.wrapping_div(b) }),
        "rem" => by_type!(ty, |a, b| if b == 0 { a } else { a.wrapping_rem(b) }),
        "min" => by_type!(ty, |a, b| a.min(b)),
        "max" => by_type!(ty, |a, b| a.max(b)),
        "shl" => match ty.size() {
            2 => Some(|a, b| u64::from((a as u16).checked_shl(b as u32).unwrap_or(0))),
            4 => Some(|a, b| u64::from((a as u32).checked_shl(b as u32).unwrap_or(0))),
            _ => Some(|a, b| a.checked_shl(b as u32).unwrap_or(0)),
        },
        "shr" => shift_right(ty),
        "mul24.lo" => match ty {
            Ty::S32 => Some(|a, b| low24_signed(a).wrapping_mul(low24_signed(b)) as u64),
            _ => Some(|a, b| (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff) & 0xffff_ffff),
        },
        "mul24.hi" => match ty {
            Ty::S32 => Some(|a, b| (low24_signed(a).wrapping_mul(low24_signed(b)) >> 16) as u64),
            _ => Some(|a, b| ((a & 0xff_ffff) * (b & 0xff_ffff)) >> 16),
        },
        _ => None,
    }
}

fn low24_signed(x: u64) -> i64 {
    ((x << 40) as i64) >> 40
}

fn shift_right(ty: Ty) -> Option<Two> {
    Some(match ty {
        Ty::S16 => |a, b| ((a as i16) >> (b as u32).min(15)) as u64,
        Ty::S32 => |a, b| ((a as i32) >> (b as u32).min(31)) as u64,
        Ty::S64 => |a, b| ((a as i64) >> (b as u32).min(63)) as u64,
        _ => match ty.size() {
            2 => |a, b| u64::from((a as u16).checked_shr(b as u32).unwrap_or(0)),
            4 => |a, b| u64::from((a as u32).checked_shr(b as u32).unwrap_or(0)),
            _ => |a, b| a.checked_shr(b as u32).unwrap_or(0),
        },
    })
}

pub(crate) fn saturating(name: &str) -> Option<Two> {
    match name {
        "add" => Some(|a, b| (a as i32).saturating_add(b as i32) as u64),
        "sub" => Some(|a, b| (a as i32).saturating_sub(b as i32) as u64),
        _ => None,
    }
}

pub(crate) fn one(name: &str, ty: Ty) -> Option<One> {
    match name {
        "neg" => by_type!(ty, |a| a.wrapping_neg()),
        "abs" => match ty {
            Ty::S16 => Some(|a| (a as i16).wrapping_abs() as u64),
            Ty::S32 => Some(|a| (a as i32).wrapping_abs() as u64),
            Ty::S64 => Some(|a| (a as i64).wrapping_abs() as u64),
            _ => None,
        },
        "popc" => by_type!(ty, |a| a.count_ones()),
        "clz" => by_type!(ty, |a| a.leading_zeros()),
        "brev" => by_type!(ty, |a| a.reverse_bits()),
        _ => None,
    }
}

/// The highest bit that differs from the sign; all ones if there is none.
pub(crate) fn find_bit(ty: Ty, shift_amount: bool) -> Option<One> {
    macro_rules! find {
        ($t:ty, $s:expr) => {
            |a| {
                let a = a as $t;
                let a = if $s && a >> (<$t>::BITS - 1) == 1 { !a } else { a };
                u64::from(if a == 0 { u32::MAX } else { <$t>::BITS - 1 - a.leading_zeros() })
            }
        };
        (shift $t:ty, $s:expr) => {
            |a| {
                let a = a as $t;
                let a = if $s && a >> (<$t>::BITS - 1) == 1 { !a } else { a };
                u64::from(if a == 0 { u32::MAX } else { a.leading_zeros() })
            }
        };
    }
    Some(match (ty, shift_amount) {
        (Ty::U32, false) => find!(u32, false),
        (Ty::S32, false) => find!(u32, true),
        (Ty::U64, false) => find!(u64, false),
        (Ty::S64, false) => find!(u64, true),
        (Ty::U32, true) => find!(shift u32, false),
        (Ty::S32, true) => find!(shift u32, true),
        (Ty::U64, true) => find!(shift u64, false),
        (Ty::S64, true) => find!(shift u64, true),
        _ => return None,
    })
}

pub(crate) fn three(name: &str, ty: Ty) -> Option<Three> {
    macro_rules! wide {
        ($t:ty, $w:ty) => {
            Some(|a, b, c| (<$w>::from(a as $t) * <$w>::from(b as $t)).wrapping_add(c as $w) as u64)
        };
    }
    macro_rules! high {
        ($t:ty, $w:ty) => {
            Some(|a, b, c| {
                let high = (<$w>::from(a as $t) * <$w>::from(b as $t)) >> <$t>::BITS;
                (high as $t).wrapping_add(c as $t) as u64
            })
        };
    }
    match name {
        "mad.lo" | "mad" => by_type!(ty, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        "mad.wide" => match ty {
            Ty::U16 => wide!(u16, u32),
            Ty::S16 => wide!(i16, i32),
            Ty::U32 => wide!(u32, u64),
            Ty::S32 => wide!(i32, i64),
            _ => None,
        },
        "mad.hi" => match ty {
            Ty::U16 => high!(u16, u32),
            Ty::S16 => high!(i16, i32),
            Ty::U32 => high!(u32, u64),
            Ty::S32 => high!(i32, i64),
            Ty::U64 => high!(u64, u128),
            Ty::S64 => high!(i64, i128),
            _ => None,
        },
        "mad24.lo" => match ty {
            Ty::S32 => Some(|a, b, c| {
                low24_signed(a).wrapping_mul(low24_signed(b)).wrapping_add(c as i64) as u64
            }),
            _ => Some(|a, b, c| ((a & 0xff_ffff) * (b & 0xff_ffff)).wrapping_add(c)),
        },
        "sad" => by_type!(ty, |a, b, c| a.abs_diff(b).wrapping_add(c as _)),
        _ => None,
    }
}

/// Four byte products and a sum, by the signs of the two operands.
pub(crate) fn dot4(a_signed: bool, b_signed: bool) -> Three {
    macro_rules! dot {
        ($a:ty, $b:ty) => {
            |a, b, c| {
                (0..4).fold(c as i32, |sum, i| {
                    let (x, y) = ((a >> (8 * i)) as $a, (b >> (8 * i)) as $b);
                    sum.wrapping_add(i32::from(x) * i32::from(y))
                }) as u64
            }
        };
    }
    match (a_signed, b_signed) {
        (true, true) => dot!(i8, i8),
        (true, false) => dot!(i8, u8),
        (false, true) => dot!(u8, i8),
        (false, false) => dot!(u8, u8),
    }
}
