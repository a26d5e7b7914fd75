//! Comparisons and selections.

use super::{Apply, Outcome, Statement, emit};
use crate::builder::Builder;
use crate::inst::{Compare, Join, Op};
use crate::number::round::{bf16_value, f16_value};
use crate::types::Ty;

type Test = fn(u64, u64) -> bool;

pub(super) fn decode(builder: &mut Builder<'_>, statement: &Statement) -> Option<Outcome> {
    match statement.name() {
        "setp" => Some(set_predicate(builder, statement)),
        "set" => Some(set(builder, statement)),
        "selp" => {
            let select = |a, b, p| if p & 1 == 1 { a } else { b };
            Some(emit(builder, statement, Apply::Three(select)))
        }
        "slct" => {
            let select: fn(u64, u64, u64) -> u64 = match statement.ty() {
                Ok(Ty::F32) => |a, b, c| if f32::from_bits(c as u32) >= 0.0 { a } else { b },
                _ => |a, b, c| if c as i32 >= 0 { a } else { b },
            };
            Some(emit(builder, statement, Apply::Three(select)))
        }
        _ => None,
    }
}

fn set_predicate(builder: &mut Builder<'_>, statement: &Statement) -> Outcome {
    let ty = statement.ty()?;
    let compare = compare(builder, statement, ty)?;
    let (p, q) = match statement.operand(0)? {
        crate::operand::Operand::Pair(p, q) => {
            let mut slot = |name: &String| builder.to(&crate::operand::Operand::Name(name.clone()));
            (slot(p)?, Some(slot(q)?))
        }
        single => (builder.to(single)?, None),
    };
    builder.emit(Op::SetPredicate { compare: Box::new(compare), p, q });
    Ok(())
}

fn set(builder: &mut Builder<'_>, statement: &Statement) -> Outcome {
    let types = statement.types();
    let [to, from] = types[..] else { return Err("two types were expected".into()) };
    let one = match to {
        Ty::F32 => u64::from(1f32.to_bits()),
        Ty::U32 | Ty::S32 => u64::from(u32::MAX),
        _ => return Err("unknown result type".into()),
    };
    let compare = compare(builder, statement, from)?;
    let d = builder.to(statement.operand(0)?)?;
    builder.emit(Op::Set { compare: Box::new(compare), d, one });
    Ok(())
}

fn compare(builder: &mut Builder<'_>, statement: &Statement, ty: Ty) -> Result<Compare, String> {
    let test = test(&statement.parts[1], ty).ok_or("unknown comparison")?;
    let a = builder.from(statement.operand(1)?)?;
    let b = builder.from(statement.operand(2)?)?;
    let join = match statement.parts[2].as_str() {
        "and" => Some(Join::And),
        "or" => Some(Join::Or),
        "xor" => Some(Join::Xor),
        _ => None,
    };
    let join = match join {
        None => None,
        Some(join) => {
            let (slot, when) = builder.predicate(statement.operand(3)?)?;
            Some((join, slot, when))
        }
    };
    Ok(Compare { test, a, b, join })
}

/// Picks the comparison of values that `$read` makes of bits.
macro_rules! ordered {
    ($name:expr, |$x:ident| $read:expr) => {{
        macro_rules! by {
            ($a:ident, $b:ident, $test:expr) => {
                Some(|a: u64, b: u64| {
                    let $a = {
                        let $x = a;
                        $read
                    };
                    let $b = {
                        let $x = b;
                        $read
                    };
                    $test
                })
            };
        }
        match $name {
            "eq" => by!(a, b, a == b),
            "ne" => by!(a, b, a != b),
            "lt" | "lo" => by!(a, b, a < b),
            "le" | "ls" => by!(a, b, a <= b),
            "gt" | "hi" => by!(a, b, a > b),
            "ge" | "hs" => by!(a, b, a >= b),
            _ => None,
        }
    }};
}

/// As above for floats, whose unordered tests are true where one is no number.
#[allow(clippy::neg_cmp_op_on_partial_ord, clippy::nonminimal_bool, reason = "that is the test")]
fn float_test(name: &str, ty: Ty) -> Option<Test> {
    macro_rules! float {
        (|$x:ident| $read:expr) => {{
            macro_rules! by {
                ($a:ident, $b:ident, $test:expr) => {
                    Some(|a: u64, b: u64| {
                        let $a = {
                            let $x = a;
                            $read
                        };
                        let $b = {
                            let $x = b;
                            $read
                        };
                        $test
                    })
                };
            }
            match name {
                "ne" => by!(a, b, a.partial_cmp(&b).is_some_and(|order| order.is_ne())),
                "equ" => by!(a, b, a.partial_cmp(&b).is_none_or(|order| order.is_eq())),
                "neu" => by!(a, b, !(a == b)),
                "ltu" => by!(a, b, !(a >= b)),
                "leu" => by!(a, b, !(a > b)),
                "gtu" => by!(a, b, !(a <= b)),
                "geu" => by!(a, b, !(a < b)),
                "num" => by!(a, b, !a.is_nan() && !b.is_nan()),
                "nan" => by!(a, b, a.is_nan() || b.is_nan()),
                _ => ordered!(name, |$x| $read),
            }
        }};
    }
    match ty {
        Ty::F16 => float!(|x| f16_value(x)),
        Ty::Bf16 => float!(|x| bf16_value(x)),
        Ty::F32 => float!(|x| f32::from_bits(x as u32)),
        Ty::F64 => float!(|x| f64::from_bits(x)),
        _ => None,
    }
}

fn test(name: &str, ty: Ty) -> Option<Test> {
    match ty {
        Ty::B16 | Ty::U16 => ordered!(name, |x| x as u16),
        Ty::S16 => ordered!(name, |x| x as i16),
        Ty::B32 | Ty::U32 => ordered!(name, |x| x as u32),
        Ty::S32 => ordered!(name, |x| x as i32),
        Ty::B64 | Ty::U64 => ordered!(name, |x| x),
        Ty::S64 => ordered!(name, |x| x as i64),
        _ => float_test(name, ty),
    }
}
