//! Atomic operations: what each makes of the old value.

use crate::number::{half, integer, round};
use crate::types::Ty;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AtomicKind {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Increment,
    Decrement,
    Exchange,
    CompareExchange,
}

/// The new value; for an exchange on condition `b` is what is expected, `c` what is put.
pub(crate) fn apply(kind: AtomicKind, ty: Ty, old: u64, b: u64, c: u64) -> u64 {
    let named = |name| integer::two(name, ty).map_or(old, |f| f(old, b));
    match kind {
        AtomicKind::Add => match ty {
            Ty::F32 => {
                let sum = f32::from_bits(old as u32) + f32::from_bits(b as u32);
                u64::from(sum.to_bits())
            }
            Ty::F64 => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
            Ty::F16 => round::to_f16(f64::from(round::f16_value(old) + round::f16_value(b))),
            Ty::F16x2 | Ty::Bf16x2 | Ty::Bf16 => half::two("add", ty).map_or(old, |f| f(old, b)),
            _ => named("add"),
        },
        AtomicKind::Min => named("min"),
        AtomicKind::Max => named("max"),
        AtomicKind::And => old & b,
        AtomicKind::Or => old | b,
        AtomicKind::Xor => old ^ b,
        AtomicKind::Increment => {
            if old as u32 >= b as u32 {
                0
            } else {
                old + 1
            }
        }
        AtomicKind::Decrement => {
            if old as u32 == 0 || old as u32 > b as u32 {
                b
            } else {
                old - 1
            }
        }
        AtomicKind::Exchange => b,
        AtomicKind::CompareExchange => {
            let same = ty.extend(old) == ty.extend(b);
            if same { c } else { old }
        }
    }
}
