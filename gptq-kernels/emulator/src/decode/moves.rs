//! Moves, conversions and addresses.

use super::{Apply, Outcome, Statement, emit};
use crate::builder::Builder;
use crate::exec::space::{LOCAL_BASE, SHARED_BASE};
use crate::inst::{Op, Space};
use crate::number::convert::{self, Convert};
use crate::number::round::Rounding;
use crate::operand::Operand;
use crate::types::Ty;

pub(super) fn decode(builder: &mut Builder<'_>, statement: &Statement) -> Option<Outcome> {
    match statement.name() {
        "mov" => Some(mov(builder, statement)),
        "cvt" => Some(cvt(builder, statement)),
        "cvta" => Some(cvta(builder, statement)),
        "isspacep" => Some(is_space(builder, statement)),
        _ => None,
    }
}

fn mov(builder: &mut Builder<'_>, statement: &Statement) -> Outcome {
    let ty = statement.ty()?;
    let (to, from) = (statement.operand(0)?, statement.operand(1)?);
    if let Operand::Vector(parts) = to {
        let part_bits = ty.bits() / parts.len() as u32;
        let a = builder.from(from)?;
        let parts = builder.many(to, true)?.into();
        builder.emit(Op::Unpack { part_bits, parts, a });
        return Ok(());
    }
    if let Operand::Vector(parts) = from {
        let part_bits = ty.bits() / parts.len() as u32;
        let parts = builder.many(from, false)?.into();
        let d = builder.to(to)?;
        builder.emit(Op::Pack { part_bits, d, parts });
        return Ok(());
    }
    if let Operand::Name(name) = from
        && matches!(name.as_str(), "%clock" | "%clock64" | "%clock_hi" | "%globaltimer")
    {
        let d = builder.to(to)?;
        builder.emit(Op::Clock { d });
        return Ok(());
    }
    emit(builder, statement, Apply::One(|a| a))
}

fn cvt(builder: &mut Builder<'_>, statement: &Statement) -> Outcome {
    let types = statement.types();
    let [to, from] = types[..] else { return Err("two types were expected".into()) };
    let (rounding, whole) = statement.rounding().unwrap_or((Rounding::Nearest, false));
    let relu = statement.has("relu");
    if matches!(to, Ty::F16x2 | Ty::Bf16x2) {
        let ty = if to == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
        if statement.has("sat") || statement.has("satfinite") {
            return Err("unknown combination".into());
        }
        return emit(builder, statement, Apply::Two(convert::pack(ty, rounding, relu)));
    }
    if statement.has("satfinite") || statement.has("rs") {
        return Err("unknown combination".into());
    }
    let how = Convert {
        to,
        from,
        rounding,
        whole: whole && to.is_float(),
        saturate: statement.has("sat"),
        flush: statement.has("ftz"),
        relu,
    };
    if let Some(f) = plain_conversion(how) {
        return emit(builder, statement, Apply::One(f));
    }
    let a = builder.from(statement.operand(1)?)?;
    let d = builder.to(statement.operand(0)?)?;
    builder.emit(Op::Convert { how, d, a });
    Ok(())
}

/// Conversions so common that they have a function of their own.
fn plain_conversion(how: Convert) -> Option<fn(u64) -> u64> {
    if how.saturate || how.flush || how.relu {
        return None;
    }
    if !how.from.is_float() && !how.to.is_float() {
        // Widening keeps the source's sign, narrowing drops bits: the narrower type decides.
        let narrower = if how.to.size() < how.from.size() { how.to } else { how.from };
        return Some(match narrower {
            Ty::S8 => |x| x as i8 as u64,
            Ty::S16 => |x| x as i16 as u64,
            Ty::S32 => |x| x as i32 as u64,
            _ => match narrower.size() {
                1 => |x| x as u8 as u64,
                2 => |x| x as u16 as u64,
                4 => |x| x as u32 as u64,
                _ => |x| x,
            },
        });
    }
    let nearest = how.rounding == Rounding::Nearest && !how.whole;
    Some(match (how.to, how.from) {
        (Ty::F32, Ty::F16) => |x| u64::from(crate::number::round::f16_value(x).to_bits()),
        (Ty::F32, Ty::Bf16) => |x| x << 16,
        (Ty::F32, Ty::S32) if nearest => |x| u64::from((x as i32 as f32).to_bits()),
        (Ty::F32, Ty::U32) if nearest => |x| u64::from((x as u32 as f32).to_bits()),
        (Ty::F32, Ty::U16) if nearest => |x| u64::from(f32::from(x as u16).to_bits()),
        (Ty::F32, Ty::F32) if nearest => |x| x,
        _ => return None,
    })
}

fn space(statement: &Statement) -> Result<Space, String> {
    let named = statement.parts[1..].iter().find_map(|part| {
        Some(match part.split("::").next()? {
            "global" | "const" => Space::Global,
            "shared" => Space::Shared,
            "local" => Space::Local,
            _ => return None,
        })
    });
    named.ok_or_else(|| "unknown space".to_owned())
}

fn cvta(builder: &mut Builder<'_>, statement: &Statement) -> Outcome {
    let generic = !statement.has("to");
    let apply: fn(u64) -> u64 = match (space(statement)?, generic) {
        (Space::Shared, true) => |a| u64::from(a as u32) + SHARED_BASE,
        (Space::Shared, false) => |a| a.wrapping_sub(SHARED_BASE),
        (Space::Local, true) => |a| u64::from(a as u32) + LOCAL_BASE,
        (Space::Local, false) => |a| a.wrapping_sub(LOCAL_BASE),
        _ => |a| a,
    };
    emit(builder, statement, Apply::One(apply))
}

fn is_space(builder: &mut Builder<'_>, statement: &Statement) -> Outcome {
    let a = builder.from(statement.operand(1)?)?;
    let d = builder.to(statement.operand(0)?)?;
    builder.emit(Op::IsSpace { space: space(statement)?, d, a });
    Ok(())
}
