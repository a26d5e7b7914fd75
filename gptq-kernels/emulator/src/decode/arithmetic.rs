//! Arithmetic: whole numbers, floats and halves.

use super::{Apply, Outcome, Statement, emit, sources};
use crate::builder::Builder;
use crate::inst::{Carry, Op};
use crate::number::round::Rounding;
use crate::number::{float, half, integer, logic};
use crate::types::Ty;

const NAMES: [&str; 38] = [
    "add", "sub", "mul", "mad", "fma", "div", "rem", "min", "max", "neg", "abs", "mul24", "mad24",
    "sad", "popc", "clz", "brev", "bfind", "rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos",
    "tanh", "copysign", "testp", "and", "or", "xor", "not", "cnot", "shl", "shr", "addc", "subc",
    "madc",
];

pub(super) fn decode(builder: &mut Builder<'_>, statement: &Statement) -> Option<Outcome> {
    let name = statement.name();
    if NAMES.contains(&name) {
        return Some(plain(builder, statement));
    }
    let apply = match name {
        "dp4a" => {
            let types = statement.types();
            let [a, b] = types[..] else { return Some(Err("two types were expected".into())) };
            Apply::Three(integer::dot4(a.is_signed(), b.is_signed()))
        }
        "prmt" => match statement.parts.get(2) {
            None => Apply::Three(logic::prmt),
            Some(mode) => Apply::Three(logic::prmt_mode(mode)?),
        },
        "bfe" => Apply::Three(logic::extract(statement.ty().ok()?)),
        "shf" => Apply::Three(logic::funnel(statement.has("l"), statement.has("wrap"))),
        "lop3" => return Some(four(builder, statement, logic::lop3)),
        "bfi" => {
            return Some(four(builder, statement, logic::insert(statement.has("b64"))));
        }
        _ => return None,
    };
    Some(emit(builder, statement, apply))
}

fn four(
    builder: &mut Builder<'_>,
    statement: &Statement,
    f: fn(u64, u64, u64, u64) -> u64,
) -> Outcome {
    let from = sources(builder, statement, 4)?;
    let d = builder.to(statement.operand(0)?)?;
    builder.emit(Op::Four { f, d, args: Box::new([from[0], from[1], from[2], from[3]]) });
    Ok(())
}

fn plain(builder: &mut Builder<'_>, statement: &Statement) -> Outcome {
    let ty = statement.ty()?;
    let name = statement.name();
    if statement.has("cc") || matches!(name, "addc" | "subc" | "madc") {
        return carry(builder, statement, ty);
    }
    if name == "testp" {
        let apply = float::test(&statement.parts[1], ty).ok_or("unknown test")?;
        return emit(builder, statement, Apply::One(apply));
    }
    let logic = matches!(name, "and" | "or" | "xor" | "not" | "cnot");
    let apply = if logic {
        bitwise(name, ty)
    } else {
        match ty {
            Ty::F32 | Ty::F64 => return floating(builder, statement, ty),
            Ty::F16 | Ty::Bf16 | Ty::F16x2 | Ty::Bf16x2 => {
                return halves(builder, statement, ty);
            }
            _ => whole(statement, ty),
        }
    };
    emit(builder, statement, apply.ok_or("unknown combination")?)
}

fn bitwise(name: &str, ty: Ty) -> Option<Apply> {
    Some(match (name, ty) {
        ("and", _) => Apply::Two(|a, b| a & b),
        ("or", _) => Apply::Two(|a, b| a | b),
        ("xor", _) => Apply::Two(|a, b| a ^ b),
        ("not", Ty::Pred) => Apply::One(|a| a ^ 1),
        ("not", _) => Apply::One(|a| !a),
        ("cnot", _) if ty.size() == 4 => Apply::One(|a| u64::from(a as u32 == 0)),
        _ => return None,
    })
}

fn whole(statement: &Statement, ty: Ty) -> Option<Apply> {
    let mut name = statement.name().to_owned();
    for part in ["lo", "hi", "wide"] {
        if statement.has(part) {
            name = format!("{name}.{part}");
        }
    }
    if statement.has("sat") {
        return integer::saturating(&name).map(Apply::Two);
    }
    if name == "bfind" {
        return integer::find_bit(ty, statement.has("shiftamt")).map(Apply::One);
    }
    integer::two(&name, ty)
        .map(Apply::Two)
        .or_else(|| integer::three(&name, ty).map(Apply::Three))
        .or_else(|| integer::one(&name, ty).map(Apply::One))
}

/// The function's name, with what changes its meaning.
fn float_name(statement: &Statement) -> String {
    let name = statement.name();
    if statement.has("NaN") { format!("{name}.NaN") } else { name.to_owned() }
}

fn floating(builder: &mut Builder<'_>, statement: &Statement, ty: Ty) -> Outcome {
    // Half operands of a mixed sum would need a conversion that is not made here.
    if statement.types().len() != 1 {
        return Err("mixed types".into());
    }
    let name = float_name(statement);
    let how = statement.rounding().map_or(Rounding::Nearest, |(how, _)| how);
    let apply = match name.as_str() {
        "fma" | "mad" => Apply::Three(float::fma(ty, how)),
        _ => float::two(&name, ty, how)
            .map(Apply::Two)
            .or_else(|| float::one(&name, ty, how).map(Apply::One))
            .ok_or("unknown combination")?,
    };
    let mut from = sources(builder, statement, apply.arity())?;
    let d = builder.to(statement.operand(0)?)?;
    let flush = statement.has("ftz") && ty == Ty::F32;
    if flush {
        for slot in &mut from {
            let flushed = builder.temporary();
            builder.emit(Op::One { f: float::flush, d: flushed, a: *slot });
            *slot = flushed;
        }
    }
    builder.emit(apply.op(d, &from));
    if flush {
        builder.emit(Op::One { f: float::flush, d, a: d });
    }
    if statement.has("sat") {
        builder.emit(Op::One { f: float::saturate(ty), d, a: d });
    }
    Ok(())
}

fn halves(builder: &mut Builder<'_>, statement: &Statement, ty: Ty) -> Outcome {
    let name = float_name(statement);
    let apply = if name == "fma" {
        half::fma(ty, statement.has("relu")).map(Apply::Three)
    } else {
        half::two(&name, ty).map(Apply::Two).or_else(|| half::one(&name, ty).map(Apply::One))
    };
    emit(builder, statement, apply.ok_or("unknown combination")?)?;
    if statement.has("sat") {
        let d = builder.to(statement.operand(0)?)?;
        let f = half::one("sat", ty).ok_or("unknown combination")?;
        builder.emit(Op::One { f, d, a: d });
    }
    Ok(())
}

/// Sums of several words: `add.cc` and its like; `mad` forms multiply first.
fn carry(builder: &mut Builder<'_>, statement: &Statement, ty: Ty) -> Outcome {
    let name = statement.name();
    let product = name.starts_with("mad");
    let from = sources(builder, statement, if product { 3 } else { 2 })?;
    let d = builder.to(statement.operand(0)?)?;
    let (a, b) = if product {
        let part = if statement.has("hi") { "mul.hi" } else { "mul.lo" };
        let f = integer::two(part, ty).ok_or("unknown combination")?;
        let d = builder.temporary();
        builder.emit(Op::Two { f, d, a: from[0], b: from[1] });
        (d, from[2])
    } else {
        (from[0], from[1])
    };
    builder.emit(Op::Carry(Box::new(Carry {
        wide: ty.size() == 8,
        subtract: name.starts_with("sub"),
        takes: name.ends_with('c'),
        gives: statement.has("cc"),
        d,
        a,
        b,
    })));
    Ok(())
}
