//! Mixtures of experts as data.

use gptq_core::Gate;

use super::{LinearPlace, Small};

/// Linears of which each token uses a few.
#[derive(Clone, Debug)]
pub struct Experts {
    /// By expert: gate and up where a router stands before them, down where none does.
    pub linears: Vec<Vec<LinearPlace>>,
    /// How tokens find their experts, in the first of the two stages.
    pub router: Option<Router>,
}

/// How tokens find their experts.
#[derive(Clone, Debug)]
pub struct Router {
    /// Experts × hidden.
    pub weight: Small,
    /// Added to its outputs.
    pub bias: Option<Small>,
    /// Added to scores where experts are chosen, not where they are weighed.
    pub correction: Option<Small>,
    /// Experts of a token.
    pub top: usize,
    /// From outputs to scores.
    pub scoring: Scoring,
    /// Experts are chosen from the best groups of them.
    pub groups: Option<Groups>,
    /// Scores of the chosen are divided by their sum.
    pub normalize: bool,
    /// What they are then multiplied by.
    pub scale: f32,
    /// What the weight of an expert is applied to.
    pub weigh: Weigh,
    /// How gate and up are joined inside an expert.
    pub gate: Gate,
    /// 1 × hidden: the sigmoid of its product with a token weighs the shared expert.
    pub shared_gate: Option<Small>,
}

/// From a router's outputs to scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// Softmax over all experts.
    Softmax,
    /// Softmax over the chosen ones.
    SoftmaxOfChosen,
    /// Sigmoid of each.
    Sigmoid,
}

/// Groups of experts with consecutive numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// How many there are.
    pub count: usize,
    /// How many a token may choose from.
    pub keep: usize,
    /// What makes a group good.
    pub rank: GroupRank,
}

/// What makes a group of experts good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupRank {
    /// Its best score.
    Best,
    /// The sum of its two best scores.
    BestTwo,
}

/// What the weight of an expert is applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weigh {
    /// What it computes.
    Output,
    /// What it reads.
    Input,
}

impl Experts {
    pub(crate) fn small(&self) -> impl Iterator<Item = &Small> {
        self.router.iter().flat_map(|router| {
            let optional = [&router.bias, &router.correction, &router.shared_gate];
            std::iter::once(&router.weight).chain(optional.into_iter().flatten())
        })
    }
}
