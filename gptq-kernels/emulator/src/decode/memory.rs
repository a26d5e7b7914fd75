//! Loads, stores, atomics and asynchronous copies.

use super::{Outcome, Statement};
use crate::builder::Builder;
use crate::exec::atomic::AtomicKind;
use crate::inst::{Access, AsyncCopy, Atomic, Op, Space};
use crate::types::Ty;

pub(super) fn decode(builder: &mut Builder<'_>, statement: &Statement) -> Option<Outcome> {
    match statement.name() {
        "ld" | "ldu" => Some(access(builder, statement, true)),
        "st" => Some(access(builder, statement, false)),
        "atom" | "red" => Some(atomic(builder, statement)),
        "cp" => Some(copy(builder, statement)),
        "fence" if is_proxy_fence(statement) => {
            builder.emit(Op::ProxyFence);
            Some(Ok(()))
        }
        "membar" | "fence" | "prefetch" | "prefetchu" | "discard" | "applypriority"
        | "createpolicy" | "nanosleep" => {
            builder.emit(Op::Nothing);
            Some(Ok(()))
        }
        _ => None,
    }
}

/// Those for other spaces or proxies order nothing that is kept track of.
fn is_proxy_fence(statement: &Statement) -> bool {
    let parts: Vec<_> = statement.parts[1..].iter().map(String::as_str).collect();
    matches!(parts[..], ["proxy", "async"] | ["proxy", "async", "shared::cta"])
}

fn space(statement: &Statement) -> Space {
    for part in &statement.parts[1..] {
        match part.as_str() {
            "global" | "const" => return Space::Global,
            "shared" | "shared::cta" | "shared::cluster" => return Space::Shared,
            "local" => return Space::Local,
            "param" | "param::entry" => return Space::Param,
            _ => {}
        }
    }
    Space::Generic
}

fn access(builder: &mut Builder<'_>, statement: &Statement, load: bool) -> Outcome {
    let ty = statement.ty()?;
    let (address, values) = if load { (1, 0) } else { (0, 1) };
    let parts = builder.many(statement.operand(values)?, load)?;
    let lanes = ["v2", "v4", "v8"].iter().find(|vector| statement.has(vector));
    if parts.len() != lanes.map_or(1, |vector| vector[1..].parse().unwrap_or(1)) {
        return Err("the vector has another length".into());
    }
    let strong =
        ["volatile", "relaxed", "acquire", "release"].iter().any(|word| statement.has(word));
    let at = builder.address(statement.operand(address)?, space(statement))?;
    let access = Box::new(Access { at, ty, parts, strong });
    builder.emit(if load { Op::Load(access) } else { Op::Store(access) });
    Ok(())
}

fn atomic(builder: &mut Builder<'_>, statement: &Statement) -> Outcome {
    let ty = statement.ty()?;
    let kind = statement.parts[1..]
        .iter()
        .find_map(|part| AtomicKind::parse(part))
        .filter(|kind| kind.suits(ty))
        .ok_or("unknown combination")?;
    let results = usize::from(statement.name() == "atom");
    let d = match results {
        1 => Some(builder.to(statement.operand(0)?)?),
        _ => None,
    };
    let at = builder.address(statement.operand(results)?, space(statement))?;
    let b = builder.from(statement.operand(results + 1)?)?;
    let c = match kind {
        AtomicKind::CompareExchange => builder.from(statement.operand(results + 2)?)?,
        _ => b,
    };
    builder.emit(Op::Atomic(Box::new(Atomic { at, ty, kind, d, b, c })));
    Ok(())
}

fn copy(builder: &mut Builder<'_>, statement: &Statement) -> Outcome {
    if statement.parts.join(".") == "cp.async.bulk.prefetch.L2.global" {
        let at = builder.address(statement.operand(0)?, Space::Global)?;
        let bytes = builder.from(statement.operand(1)?)?;
        builder.emit(Op::Prefetch { at, bytes });
        return Ok(());
    }
    if !statement.has("async") || statement.has("bulk") || statement.has("mbarrier") {
        return Err("unknown instruction".into());
    }
    if statement.has("commit_group") {
        builder.emit(Op::AsyncCommit);
        return Ok(());
    }
    if statement.has("wait_all") {
        builder.emit(Op::AsyncWaitAll);
        return Ok(());
    }
    if statement.has("wait_group") {
        let crate::operand::Operand::Number(left) = *statement.operand(0)? else {
            return Err("a number of groups was expected".into());
        };
        builder.emit(Op::AsyncWait { left: left as u32 });
        return Ok(());
    }
    let to = builder.address(statement.operand(0)?, Space::Shared)?;
    let from = builder.address(statement.operand(1)?, Space::Global)?;
    let crate::operand::Operand::Number(bytes) = *statement.operand(2)? else {
        return Err("a size was expected".into());
    };
    let allowed: &[u64] = if statement.has("cg") { &[16] } else { &[4, 8, 16] };
    if !allowed.contains(&bytes) {
        return Err("a copy cannot have this size".into());
    }
    // A cache policy, if there is one, comes last.
    let policy = usize::from(statement.has("L2::cache_hint"));
    let read = match statement.operands.len() - policy {
        3 => None,
        4 => Some(builder.from(statement.operand(3)?)?),
        _ => return Err("too many operands".into()),
    };
    let copy = AsyncCopy { to, from, bytes: bytes as u32, read };
    builder.emit(Op::AsyncCopy(Box::new(copy)));
    Ok(())
}

impl AtomicKind {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "add" => Self::Add,
            "min" => Self::Min,
            "max" => Self::Max,
            "and" => Self::And,
            "or" => Self::Or,
            "xor" => Self::Xor,
            "inc" => Self::Increment,
            "dec" => Self::Decrement,
            "exch" => Self::Exchange,
            "cas" => Self::CompareExchange,
            _ => return None,
        })
    }

    fn suits(self, ty: Ty) -> bool {
        match self {
            Self::Exchange | Self::CompareExchange => ty.size() >= 2,
            Self::Add => ty.size() >= 2,
            _ => !ty.is_float() && !matches!(ty, Ty::F16x2 | Ty::Bf16x2) && ty.size() >= 4,
        }
    }
}
