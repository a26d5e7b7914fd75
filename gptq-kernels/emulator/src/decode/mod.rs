//! From a statement's words to instructions, one file per family.

mod arithmetic;
mod compare;
mod control;
mod memory;
mod moves;
mod warp;
mod warpgroup;

use crate::builder::Builder;
use crate::inst::{Op, Slot};
use crate::number::round::Rounding;
use crate::operand::{Operand, operands};
use crate::types::Ty;
use crate::variable::Declaration;

/// An instruction's name, split at its dots, and its operands.
pub(crate) struct Statement {
    parts: Vec<String>,
    operands: Vec<Operand>,
}

impl Statement {
    fn name(&self) -> &str {
        &self.parts[0]
    }

    fn has(&self, modifier: &str) -> bool {
        self.parts[1..].iter().any(|part| part == modifier)
    }

    fn types(&self) -> Vec<Ty> {
        self.parts[1..].iter().filter_map(|part| Ty::parse(part)).collect()
    }

    /// The last type named, which most instructions have only one of.
    fn ty(&self) -> Result<Ty, String> {
        self.types().last().copied().ok_or_else(|| "no type".to_owned())
    }

    fn operand(&self, at: usize) -> Result<&Operand, String> {
        self.operands.get(at).ok_or_else(|| "too few operands".to_owned())
    }

    fn rounding(&self) -> Option<(Rounding, bool)> {
        self.parts[1..].iter().find_map(|part| {
            Some(match part.as_str() {
                "rn" => (Rounding::Nearest, false),
                "rna" => (Rounding::NearestAway, false),
                "rz" => (Rounding::Zero, false),
                "rm" => (Rounding::Down, false),
                "rp" => (Rounding::Up, false),
                "rni" => (Rounding::Nearest, true),
                "rzi" => (Rounding::Zero, true),
                "rmi" => (Rounding::Down, true),
                "rpi" => (Rounding::Up, true),
                _ => return None,
            })
        })
    }
}

type Outcome = Result<(), String>;

/// Decodes one statement of a kernel's body.
pub(crate) fn statement(builder: &mut Builder<'_>, words: &[String], line: usize) -> Outcome {
    match words[0].as_str() {
        ".reg" => {
            builder.scope().declare(&words[2..]);
            return Ok(());
        }
        ".pragma" => return Ok(()),
        ".shared" | ".local" => {
            let declaration = Declaration::parse(&words[1..]).ok_or("not a declaration")?;
            let Declaration { name, align, bytes, .. } = &declaration;
            if words[0] == ".shared" {
                builder.declare_shared(name, *align, *bytes);
            } else {
                builder.declare_local(name, *align, *bytes);
            }
            return Ok(());
        }
        _ => {}
    }
    let text = words.join(" ");
    let mut rest = words;
    let mut guard = None;
    if rest[0] == "@" {
        let negated = rest.get(1).is_some_and(|word| word == "!");
        let name = rest.get(1 + usize::from(negated)).ok_or("no predicate")?;
        guard = Some((builder.register(name).ok_or("unknown predicate")?, !negated));
        rest = &rest[2 + usize::from(negated)..];
    }
    let (mnemonic, rest) = rest.split_first().ok_or("no instruction")?;
    let statement = Statement {
        parts: mnemonic.split('.').map(str::to_owned).collect(),
        operands: operands(rest).ok_or("operands that have no meaning")?,
    };
    builder.begin(line, text, guard);
    let families =
        [moves::decode, arithmetic::decode, compare::decode, memory::decode, control::decode];
    for family in families {
        if let Some(outcome) = family(builder, &statement) {
            return outcome;
        }
    }
    warp::decode(builder, &statement).unwrap_or_else(|| Err("unknown instruction".into()))
}

/// Emits a function of one to three operands.
pub(crate) enum Apply {
    One(fn(u64) -> u64),
    Two(fn(u64, u64) -> u64),
    Three(fn(u64, u64, u64) -> u64),
}

impl Apply {
    fn arity(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Two(_) => 2,
            Self::Three(_) => 3,
        }
    }

    fn op(self, d: Slot, from: &[Slot]) -> Op {
        match self {
            Self::One(f) => Op::One { f, d, a: from[0] },
            Self::Two(f) => Op::Two { f, d, a: from[0], b: from[1] },
            Self::Three(f) => Op::Three { f, d, a: from[0], b: from[1], c: from[2] },
        }
    }
}

/// Emits `apply` on the statement's operands.
fn emit(builder: &mut Builder<'_>, statement: &Statement, apply: Apply) -> Outcome {
    let from = sources(builder, statement, apply.arity())?;
    let d = builder.to(statement.operand(0)?)?;
    builder.emit(apply.op(d, &from));
    Ok(())
}

fn sources(
    builder: &mut Builder<'_>,
    statement: &Statement,
    count: usize,
) -> Result<Vec<Slot>, String> {
    if statement.operands.len() != count + 1 {
        return Err(format!("{count} operands and a result were expected"));
    }
    (1..=count).map(|at| builder.from(statement.operand(at)?)).collect()
}
