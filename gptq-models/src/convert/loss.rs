//! What a target cannot hold of a layer, in words and numbers.

use std::fmt;

use gptq_pack::{Dtype, Rounding};

use super::plan::{Facts, Goal};
use crate::{Checkpoint, Error};

/// What the target cannot hold of one layer.
pub(super) enum Verdict {
    Lossless,
    Lossy(Loss),
    Impossible(gptq_pack::Error),
}

/// What changes, and by how much.
#[derive(Debug)]
pub(super) enum Loss {
    /// Numbers of this kind are rounded to this type.
    Rounded { what: &'static str, dtype: Dtype, by: Rounding },
    /// Zero points of 0, in the format that stores them minus one.
    ZeroAtZero { count: usize },
    /// Not measured: the caller accepts it.
    Accepted,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::Rounded { what, dtype, by } => write!(
                f,
                "{} of {} {what} change by up to {:.1e} of their value when rounded to {dtype}",
                by.changed, by.count, by.largest
            ),
            Loss::ZeroAtZero { count } => write!(
                f,
                "{count} zero points are 0, which format gptq cannot store; raised to 1, the \
                 largest codes of their groups lose a step"
            ),
            Loss::Accepted => f.write_str("weights are rounded"),
        }
    }
}

impl Loss {
    /// Another way to the same end, without the loss.
    fn way_out(&self) -> &'static str {
        match self {
            Loss::Rounded { what: "weights", .. } | Loss::Accepted => "--dtype f32 loses nothing",
            Loss::Rounded { .. } => "--to compressed-tensors keeps them",
            Loss::ZeroAtZero { .. } => "--to gptq_v2 holds them",
        }
    }
}

impl Verdict {
    /// What rounding these numbers to this type means for a layer.
    pub(super) fn of_rounding(what: &'static str, dtype: Dtype, by: Rounding) -> Self {
        match by.is_exact() {
            true => Verdict::Lossless,
            false => Verdict::Lossy(Loss::Rounded { what, dtype, by }),
        }
    }
}

/// Refuses what the target cannot hold, and what it can hold only with a loss nobody accepted.
pub(super) fn refuse(
    checkpoint: &Checkpoint,
    target: Goal,
    lossy: bool,
    facts: &[Facts<'_>],
) -> Result<(), Error> {
    let all = facts.len();
    let fail = |message: String| Err(Error::file(checkpoint.dir(), message));
    let impossible = facts.iter().filter_map(|facts| match &facts.verdict {
        Verdict::Impossible(error) => Some((&facts.layer.name, error)),
        _ => None,
    });
    let impossible: Vec<_> = impossible.collect();
    if let [(first, error), ..] = impossible[..] {
        return fail(format!(
            "cannot be converted to {target}, with or without --lossy: {} of {all} layers do not \
             fit (first: {first}: {error}); --to dense fits everything. Nothing was written",
            impossible.len()
        ));
    }
    let losses = facts.iter().filter_map(|facts| match &facts.verdict {
        Verdict::Lossy(loss) => Some((&facts.layer.name, loss)),
        _ => None,
    });
    let losses: Vec<_> = losses.collect();
    match losses[..] {
        [(first, loss), ..] if !lossy => fail(format!(
            "cannot be converted to {target} without loss: {} of {all} layers change (first: \
             {first}: {loss}); {}, --lossy accepts the loss. Nothing was written",
            losses.len(),
            loss.way_out()
        )),
        _ => Ok(()),
    }
}
