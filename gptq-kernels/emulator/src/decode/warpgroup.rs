//! Products of a warpgroup, four warps that issue them together.

use super::Statement;
use super::warp::Decoded;
use crate::builder::Builder;
use crate::inst::{Collective, Group, GroupProduct, Left, Slot, Together};
use crate::operand::Operand;
use crate::types::Ty;

pub(super) fn decode(builder: &mut Builder<'_>, statement: &Statement) -> Decoded {
    if builder.target() != "sm_90a" {
        return Err("wgmma needs .target sm_90a".into());
    }
    let parts: Vec<_> = statement.parts.iter().map(String::as_str).collect();
    let group = match parts[1..] {
        ["fence", "sync", "aligned"] => Group::Fence,
        ["commit_group", "sync", "aligned"] => Group::Commit,
        ["wait_group", "sync", "aligned"] => match statement.operand(0)? {
            Operand::Number(left) => Group::Wait { left: *left as u32 },
            _ => return Err("a number of groups was expected".into()),
        },
        ["mma_async", "sync", "aligned", shape, "f32", a, b] if a == b => {
            Group::Multiply(product(builder, statement, shape, a)?)
        }
        _ => return Err("unknown combination".into()),
    };
    let operands = match group {
        Group::Fence | Group::Commit => 0,
        Group::Wait { .. } => 1,
        Group::Multiply(_) => statement.operands.len(),
    };
    if statement.operands.len() != operands {
        return Err("too many operands".into());
    }
    Ok(Together { mask: None, what: Collective::Group(group) })
}

fn product(
    builder: &mut Builder<'_>,
    statement: &Statement,
    shape: &str,
    ty: &str,
) -> Result<GroupProduct, String> {
    let ty = Ty::parse(ty).filter(|ty| matches!(ty, Ty::F16 | Ty::Bf16));
    let ty = ty.ok_or("unknown combination")?;
    let columns = shape.strip_prefix("m64n").and_then(|rest| rest.strip_suffix("k16"));
    let columns: usize = columns.and_then(|n| n.parse().ok()).ok_or("unknown shape")?;
    if !columns.is_multiple_of(8) || !(8..=256).contains(&columns) {
        return Err("unknown shape".into());
    }
    let d = registers(builder, statement.operand(0)?)?;
    if d.len() != columns / 2 {
        return Err("a fragment has another length".into());
    }
    let a = match statement.operand(1)? {
        vector @ Operand::Vector(_) => {
            let words = registers(builder, vector)?;
            Left::Registers(words.try_into().map_err(|_| "a fragment has another length")?)
        }
        descriptor => Left::Shared(builder.from(descriptor)?),
    };
    let b = builder.from(statement.operand(2)?)?;
    let add = match statement.operand(3)? {
        predicate @ (Operand::Name(_) | Operand::Number(0 | 1)) => builder.from(predicate)?,
        _ => return Err("a predicate was expected".into()),
    };
    let negate = sign(statement.operand(4)?)? != sign(statement.operand(5)?)?;
    let factors = if matches!(a, Left::Shared(_)) { 2 } else { 1 };
    if statement.operands.len() != 6 + factors {
        return Err(format!("{} operands were expected", 6 + factors));
    }
    for at in 6..6 + factors {
        match statement.operand(at)? {
            Operand::Number(0) => {}
            Operand::Number(1) => return Err("a factor whose rows lie along M or N".into()),
            _ => return Err("0 or 1 was expected".into()),
        }
    }
    // Two values for one register, or a factor that is overwritten, have no meaning.
    let mut all = d.clone();
    if let Left::Registers(words) = a {
        all.extend(words);
    }
    all.sort_unstable();
    if all.windows(2).any(|pair| pair[0] == pair[1] && d.contains(&pair[0])) {
        return Err("a register of the result is named twice".into());
    }
    Ok(GroupProduct { columns, ty, d, a, b, add, negate })
}

fn registers(builder: &mut Builder<'_>, operand: &Operand) -> Result<Vec<Slot>, String> {
    match operand {
        Operand::Vector(_) => builder.many(operand, true),
        _ => Err("a vector of registers was expected".into()),
    }
}

/// Whether a factor is taken as it is.
fn sign(operand: &Operand) -> Result<bool, String> {
    match operand {
        Operand::Number(1) => Ok(true),
        Operand::Number(value) if *value as i64 == -1 => Ok(false),
        _ => Err("1 or -1 was expected".into()),
    }
}
