//! Branches, exits and barriers of a block.

use super::{Outcome, Statement};
use crate::builder::Builder;
use crate::inst::{Barrier, BarrierVote, Op, VoteKind};
use crate::operand::Operand;

pub(super) fn decode(builder: &mut Builder<'_>, statement: &Statement) -> Option<Outcome> {
    match statement.name() {
        "bra" => {
            let Some(Operand::Name(label)) = statement.operands.first() else {
                return Some(Err("a label was expected".into()));
            };
            builder.branch(std::slice::from_ref(label), None);
            Some(Ok(()))
        }
        "brx" => Some(table(builder, statement)),
        "ret" | "exit" => {
            builder.emit(Op::Exit);
            Some(Ok(()))
        }
        "trap" => {
            builder.emit(Op::Trap);
            Some(Ok(()))
        }
        "griddepcontrol" if statement.has("wait") => {
            builder.emit(Op::WaitForKernels);
            Some(Ok(()))
        }
        // Whether the next kernel begins early is up to whoever launches it.
        "griddepcontrol" if statement.has("launch_dependents") => {
            builder.emit(Op::Nothing);
            Some(Ok(()))
        }
        "bar" | "barrier" if !statement.has("warp") => Some(barrier(builder, statement)),
        _ => None,
    }
}

fn table(builder: &mut Builder<'_>, statement: &Statement) -> Outcome {
    let index = builder.from(statement.operand(0)?)?;
    let Operand::Name(name) = statement.operand(1)? else {
        return Err("a table of branches was expected".into());
    };
    let labels = builder.tables.get(name).cloned().ok_or("no such table of branches")?;
    builder.branch(&labels, Some(index));
    Ok(())
}

fn barrier(builder: &mut Builder<'_>, statement: &Statement) -> Outcome {
    if statement.has("cluster") {
        return Err("unknown instruction".into());
    }
    let red = statement.has("red");
    let arrive = statement.has("arrive");
    if !red && !arrive && !statement.has("sync") {
        return Err("unknown instruction".into());
    }
    let first = usize::from(red);
    let last = statement.operands.len().saturating_sub(1);
    let id = builder.from(statement.operand(first)?)?;
    let vote = if red {
        let kind = if statement.has("popc") {
            VoteKind::Count
        } else if statement.has("and") {
            VoteKind::All
        } else {
            VoteKind::Any
        };
        let (p, when) = builder.predicate(statement.operand(last)?)?;
        Some(BarrierVote { kind, d: builder.to(statement.operand(0)?)?, p, when })
    } else {
        None
    };
    let counts = statement.operands.len() - first - usize::from(red) > 1;
    let count = match counts {
        true => Some(builder.from(statement.operand(first + 1)?)?),
        false => None,
    };
    builder.emit(Op::Barrier(Box::new(Barrier { id, count, arrive, vote })));
    Ok(())
}
