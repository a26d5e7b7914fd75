//! What is solved from one pass over the samples.

use std::ops::Range;

use gptq_core::Moments;
use gptq_pack::PackedBackend;
use ndarray::Array2;

use crate::{
    Error, QuantizeOptions, Routing,
    graph::{Stage, Weigh},
    meter::Cost,
    plan::LinearPlan,
    weights::StageWeights,
};

/// How many stages of a block with so many are solved together: one, or all.
pub(crate) fn unit_size(options: &QuantizeOptions, stages: usize) -> usize {
    if options.true_sequential { 1 } else { stages.max(1) }
}

/// One stage of a unit.
pub(crate) struct UnitStage<'a, B: PackedBackend> {
    pub(crate) stage: &'a Stage,
    /// In the order of [`Stage::all_linears`].
    pub(crate) linears: &'a [LinearPlan],
    pub(crate) groups: Vec<Group>,
    /// Original linears while inputs are gathered, none where nothing runs through them; quantized
    /// ones afterwards.
    pub(crate) weights: StageWeights<B>,
    pub(crate) cost: Cost,
    /// Dequantized weights so far, in the order of the linears.
    pub(crate) solved: Vec<Array2<f32>>,
}

impl<B: PackedBackend> UnitStage<'_, B> {
    pub(crate) fn label(&self) -> &str {
        self.linears.first().map_or("", |l| &l.place.name)
    }
}

/// Linears that read the same rows.
pub(crate) struct Group {
    /// Those of one expert; all rows without one.
    pub(crate) expert: Option<usize>,
    pub(crate) linears: Range<usize>,
}

/// What one group reads, summed up.
pub(crate) struct Sum<T> {
    pub(crate) stage: usize,
    pub(crate) group: usize,
    pub(crate) moments: Option<Moments<T>>,
    /// Tokens that a router sent.
    pub(crate) sent: Option<u64>,
}

/// One pass over the samples: for one group of the only stage, so that one Hessian is held at a
/// time, or for all groups of several stages.
pub(crate) struct Round {
    pub(crate) group: Option<usize>,
    pub(crate) last: bool,
    /// How many there are.
    pub(crate) of: usize,
}

pub(crate) fn rounds<B: PackedBackend>(stages: &[UnitStage<'_, B>]) -> Vec<Round> {
    match stages {
        [only] => {
            let of = only.groups.len();
            (0..of).map(|g| Round { group: Some(g), last: g + 1 == of, of }).collect()
        }
        _ => vec![Round { group: None, last: true, of: 1 }],
    }
}

pub(crate) fn accumulate<B: PackedBackend>(
    backend: &B,
    moments: &mut Moments<B::Tensor>,
    x: &B::Tensor,
    native: Option<&B::Tensor>,
) -> Result<(), Error> {
    backend.accumulate_gram(&mut moments.gram, x)?;
    if let (Some(cross), Some(native)) = (&mut moments.cross, native) {
        backend.accumulate_cross(cross, native, x)?;
    }
    moments.tokens += backend.dim(x).0 as u64;
    Ok(())
}

/// The linears of a stage by what they read.
pub(crate) fn groups(stage: &Stage, routing: Routing) -> Vec<Group> {
    let own = stage.linears.len();
    let Some(experts) = &stage.experts else {
        return vec![Group { expert: None, linears: 0..own }];
    };
    // Experts that all see every token as it is see what the others see.
    let alike = routing == Routing::All
        && experts.router.as_ref().is_some_and(|router| router.weigh == Weigh::Output);
    if alike {
        return vec![Group { expert: None, linears: 0..stage.all_linears().count() }];
    }
    let mut groups = Vec::with_capacity(1 + experts.linears.len());
    if own > 0 {
        groups.push(Group { expert: None, linears: 0..own });
    }
    let mut start = own;
    for (e, linears) in experts.linears.iter().enumerate() {
        groups.push(Group { expert: Some(e), linears: start..start + linears.len() });
        start += linears.len();
    }
    groups
}
