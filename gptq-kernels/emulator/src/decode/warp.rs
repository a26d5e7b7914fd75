//! What the lanes of a warp do together.

use super::{Outcome, Statement, warpgroup};
use crate::builder::Builder;
use crate::inst::{
    Collective, MmaShape, Op, ReduceKind, ShuffleKind, Slot, Space, Together, VoteKind,
};
use crate::operand::Operand;
use crate::types::Ty;

pub(super) fn decode(builder: &mut Builder<'_>, statement: &Statement) -> Option<Outcome> {
    let together = match statement.name() {
        "bar" | "barrier" => bar_warp(builder, statement),
        "activemask" => active(builder, statement),
        "shfl" => shuffle(builder, statement),
        "vote" => vote(builder, statement),
        "redux" => reduce(builder, statement),
        "match" => matching(builder, statement),
        "ldmatrix" => load_matrix(builder, statement),
        "mma" => mma(builder, statement),
        "wgmma" => warpgroup::decode(builder, statement),
        _ => return None,
    };
    Some(together.map(|together| builder.emit(Op::Together(Box::new(together)))))
}

pub(super) type Decoded = Result<Together, String>;

fn bar_warp(builder: &mut Builder<'_>, statement: &Statement) -> Decoded {
    let mask = Some(builder.from(statement.operand(0)?)?);
    Ok(Together { mask, what: Collective::Sync })
}

fn active(builder: &mut Builder<'_>, statement: &Statement) -> Decoded {
    let d = builder.to(statement.operand(0)?)?;
    Ok(Together { mask: None, what: Collective::Active { d } })
}

/// A result with or without a predicate: `%r|%p`.
fn pair(builder: &mut Builder<'_>, operand: &Operand) -> Result<(Slot, Option<Slot>), String> {
    match operand {
        Operand::Pair(d, p) => {
            let d = builder.to(&Operand::Name(d.clone()))?;
            Ok((d, Some(builder.to(&Operand::Name(p.clone()))?)))
        }
        single => Ok((builder.to(single)?, None)),
    }
}

fn shuffle(builder: &mut Builder<'_>, statement: &Statement) -> Decoded {
    let kind = match statement.parts.get(2).map(String::as_str) {
        Some("up") => ShuffleKind::Up,
        Some("down") => ShuffleKind::Down,
        Some("bfly") => ShuffleKind::Butterfly,
        Some("idx") => ShuffleKind::Index,
        _ => return Err("unknown shuffle".into()),
    };
    let (d, p) = pair(builder, statement.operand(0)?)?;
    let a = builder.from(statement.operand(1)?)?;
    let b = builder.from(statement.operand(2)?)?;
    let c = builder.from(statement.operand(3)?)?;
    let mask = Some(builder.from(statement.operand(4)?)?);
    Ok(Together { mask, what: Collective::Shuffle { kind, d, p, a, b, c } })
}

fn vote(builder: &mut Builder<'_>, statement: &Statement) -> Decoded {
    let kind = match statement.parts.get(2).map(String::as_str) {
        Some("all") => VoteKind::All,
        Some("any") => VoteKind::Any,
        Some("uni") => VoteKind::Uniform,
        Some("ballot") => VoteKind::Ballot,
        _ => return Err("unknown vote".into()),
    };
    let d = builder.to(statement.operand(0)?)?;
    let (p, when) = builder.predicate(statement.operand(1)?)?;
    let mask = Some(builder.from(statement.operand(2)?)?);
    Ok(Together { mask, what: Collective::Vote { kind, d, p, when } })
}

fn reduce(builder: &mut Builder<'_>, statement: &Statement) -> Decoded {
    let kind = match statement.parts.get(2).map(String::as_str) {
        Some("add") => ReduceKind::Add,
        Some("min") => ReduceKind::Min,
        Some("max") => ReduceKind::Max,
        Some("and") => ReduceKind::And,
        Some("or") => ReduceKind::Or,
        Some("xor") => ReduceKind::Xor,
        _ => return Err("unknown reduction".into()),
    };
    let ty = statement.ty()?;
    if ty.size() != 4 || ty.is_float() {
        return Err("unknown combination".into());
    }
    let d = builder.to(statement.operand(0)?)?;
    let a = builder.from(statement.operand(1)?)?;
    let mask = Some(builder.from(statement.operand(2)?)?);
    Ok(Together { mask, what: Collective::Reduce { kind, signed: ty.is_signed(), d, a } })
}

fn matching(builder: &mut Builder<'_>, statement: &Statement) -> Decoded {
    let wide = statement.ty()?.size() == 8;
    let (d, p) = pair(builder, statement.operand(0)?)?;
    let a = builder.from(statement.operand(1)?)?;
    let mask = Some(builder.from(statement.operand(2)?)?);
    let what = if statement.has("any") {
        Collective::MatchAny { wide, d, a }
    } else {
        Collective::MatchAll { wide, d, p, a }
    };
    Ok(Together { mask, what })
}

fn load_matrix(builder: &mut Builder<'_>, statement: &Statement) -> Decoded {
    if !statement.has("m8n8") || statement.ty()? != Ty::B16 {
        return Err("unknown combination".into());
    }
    let d = builder.many(statement.operand(0)?, true)?;
    let count = ["x1", "x2", "x4"].iter().find(|part| statement.has(part)).ok_or("no count")?;
    if count[1..].parse() != Ok(d.len()) {
        return Err("the vector has another length".into());
    }
    let shared = statement.parts.iter().any(|part| part.starts_with("shared"));
    let space = if shared { Space::Shared } else { Space::Generic };
    let at = builder.address(statement.operand(1)?, space)?;
    let transposed = statement.has("trans");
    Ok(Together { mask: None, what: Collective::LoadMatrix { at, transposed, d } })
}

fn mma(builder: &mut Builder<'_>, statement: &Statement) -> Decoded {
    let types = statement.types();
    let [d, a, b, c] = types[..] else { return Err("four types were expected".into()) };
    let k = match statement.parts[1..].iter().find(|part| part.starts_with("m16n8k")) {
        Some(shape) => shape[6..].parse().map_err(|_| "unknown shape")?,
        None => return Err("unknown shape".into()),
    };
    if !statement.has("row") || !statement.has("col") {
        return Err("unknown layout".into());
    }
    let known = match (a, b) {
        (Ty::F16, Ty::F16) => {
            matches!(k, 8 | 16) && matches!((d, c), (Ty::F32, Ty::F32) | (Ty::F16, Ty::F16))
        }
        (Ty::Bf16, Ty::Bf16) => matches!(k, 8 | 16) && (d, c) == (Ty::F32, Ty::F32),
        (Ty::Tf32, Ty::Tf32) => matches!(k, 4 | 8) && (d, c) == (Ty::F32, Ty::F32),
        (Ty::S8 | Ty::U8, Ty::S8 | Ty::U8) => matches!(k, 16 | 32) && (d, c) == (Ty::S32, Ty::S32),
        _ => false,
    };
    if !known {
        return Err("unknown combination".into());
    }
    let shape = MmaShape { k, a, b, c, d, saturate: statement.has("satfinite") };
    let d = builder.many(statement.operand(0)?, true)?;
    let a = builder.many(statement.operand(1)?, false)?;
    let b = builder.many(statement.operand(2)?, false)?;
    let c = builder.many(statement.operand(3)?, false)?;
    let words = shape.k * shape.a.size() / 8;
    let sums = 4 * shape.c.size() / 4;
    if a.len() != words || b.len() != words / 2 || c.len() != sums || d.len() != sums {
        return Err("a fragment has another length".into());
    }
    Ok(Together { mask: None, what: Collective::Mma { shape, d, a, b, c } })
}
