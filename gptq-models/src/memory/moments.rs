//! What is in memory when: the moments of a run, from the shapes of its linears.

use crate::{
    QuantizeOptions, Routing,
    graph::{Graph, Stage},
    plan::{LinearPlan, Plan},
    unit::{groups, unit_size},
};

/// What is in memory at one moment of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moment {
    pub(crate) weights: u64,
    pub(crate) hessian: u64,
    pub(crate) pass: u64,
    /// Stages of the same block that samples have not passed yet, if a limit keeps them before.
    pub(crate) behind: u64,
    /// Pages of the model's files.
    pub(crate) mapped: u64,
    /// Everything that is not of the model.
    pub(crate) program: u64,
    /// Channels that samples hold beside the residual stream.
    pub(crate) held: u64,
}

/// What all moments of a run have in common.
struct Run {
    /// Tokens that go through a stage together.
    tokens: u64,
    /// Bytes of a weight that samples go through.
    operand: u64,
    /// Whether the original model runs beside the quantized one.
    native: bool,
    routing: Routing,
    adapter: bool,
}

/// Those of a run that sends `tokens` through a stage at a time, multiplying bf16 where `half`.
pub(crate) fn of(
    graph: &Graph,
    plan: &Plan,
    options: &QuantizeOptions,
    tokens: u64,
    half: bool,
) -> Vec<Moment> {
    let run = Run {
        tokens,
        operand: if half { 2 } else { 4 },
        native: plan.needs_native(),
        routing: options.routing,
        adapter: options.eora.is_some(),
    };
    let mut moments = Vec::new();
    for (block, plans) in graph.blocks.iter().zip(&plan.blocks) {
        // Of the stages of this block that samples may have to go through again: weights, and a pass.
        let (mut before, mut behind, mut again) = (0, 0, 0);
        let size = unit_size(options, plans.len());
        for (stages, linears) in block.stages.chunks(size).zip(plans.chunks(size)) {
            let after = stages.last().and_then(Stage::holds).unwrap_or(0) as u64;
            let of_unit = run.unit(stages, linears, before, after).into_iter();
            moments.extend(of_unit.map(|m| match m.pass {
                0 => Moment { behind, ..m },
                _ => Moment { behind: behind + again, ..m },
            }));
            let weights = run.operand * linears.iter().flatten().map(size_of).sum::<u64>();
            let passes = stages.iter().map(|stage| pass(stage, tokens)).max().unwrap_or(0);
            (behind, again) = match after {
                0 => (0, 0),
                _ => (behind + weights, again.max(passes)),
            };
            before = after;
        }
    }
    if let Some(head) = &plan.head {
        let head = std::slice::from_ref(head);
        let pass = 12 * run.tokens * widest(head);
        moments.push(Moment { pass, hessian: run.gathered(head), ..Moment::default() });
        moments.extend(run.solving(head, size_of(&head[0]), run.gathered(head), 0));
    }
    moments
}

impl Run {
    /// The moments of stages that are solved from one pass, with `before` and `after` channels that
    /// samples hold.
    fn unit(
        &self,
        stages: &[Stage],
        linears: &[Vec<LinearPlan>],
        before: u64,
        after: u64,
    ) -> Vec<Moment> {
        let sizes: Vec<u64> = linears.iter().map(|l| l.iter().map(size_of).sum()).collect();
        let all: u64 = sizes.iter().sum();
        let largest = linears.iter().flatten().map(size_of).max().unwrap_or(0);
        let pass = stages.iter().map(|stage| pass(stage, self.tokens)).max().unwrap_or(0);
        // Originals that samples go through on their way to the last stage's input, or past it.
        let run_through = if self.native { all } else { all - sizes.last().unwrap_or(&0) };
        let originals = self.operand * run_through;
        let groups: Vec<&[LinearPlan]> = stages
            .iter()
            .zip(linears)
            .flat_map(|(stage, linears)| {
                groups(stage, self.routing).into_iter().map(|group| &linears[group.linears])
            })
            .collect();
        // One group at a time of a single stage, all groups of several.
        let gathered = groups.iter().map(|group| self.gathered(group));
        let hessians: u64 =
            if stages.len() == 1 { gathered.max().unwrap_or(0) } else { gathered.sum() };
        let kept = if groups.len() > 1 && stages.len() == 1 { originals } else { 0 };
        let mut moments = vec![
            Moment {
                weights: originals,
                hessian: hessians,
                pass,
                held: before,
                ..Moment::default()
            },
            Moment { weights: 4 * all + self.operand * largest, held: before, ..Moment::default() },
            Moment {
                weights: self.operand * all,
                pass,
                held: before.max(after),
                ..Moment::default()
            },
        ];
        for group in groups {
            let of_group = self.solving(group, all, hessians, before);
            moments.extend(of_group.map(|m| Moment { weights: m.weights + kept, ..m }));
        }
        moments
    }

    /// A Hessian for linears that share their input; for GPTAQ also the cross moment.
    fn gathered(&self, group: &[LinearPlan]) -> u64 {
        let width = widest(group);
        4 * width * width * if self.native { 2 } else { 1 }
    }

    /// Reading, solving and correcting the linears of a group, with `all` weights of its unit in
    /// memory and so many bytes of Hessians.
    fn solving(
        &self,
        group: &[LinearPlan],
        all: u64,
        hessians: u64,
        held: u64,
    ) -> impl Iterator<Item = Moment> {
        let (square, largest) =
            (widest(group).pow(2), group.iter().map(size_of).max().unwrap_or(0));
        let codes: u64 = group.iter().map(size_of).sum();
        let inputs = if self.adapter { 4 * square } else { 0 };
        // The factor is made in place, with a quarter of it beside; for GPTAQ it is copied, and the
        // cross moment becomes another matrix.
        let factor = if self.native { 8 * square } else { square };
        let weights = 4 * all;
        let base = Moment { weights, hessian: hessians + inputs, held, ..Moment::default() };
        let read = Moment { mapped: 2 * largest, ..base };
        let factored = Moment { hessian: base.hessian + factor, ..base };
        let solve = Moment { weights: weights + codes, ..base };
        // Errors as f32 and f64, the second moment and at most one more square as f64, for each.
        let of_linear =
            |l: &LinearPlan| 16 * size_of(l) + 8 * (square + (l.place.out_features as u64).pow(2));
        let errors = group.iter().map(of_linear).sum::<u64>();
        let correct = Moment {
            weights: solve.weights + errors,
            hessian: base.hessian - self.gathered(group),
            ..base
        };
        [Some(read), Some(factored), Some(solve), self.adapter.then_some(correct)]
            .into_iter()
            .flatten()
    }
}

pub(crate) fn size_of(linear: &LinearPlan) -> u64 {
    (linear.place.in_features * linear.place.out_features) as u64
}

fn widest(linears: &[LinearPlan]) -> u64 {
    linears.iter().map(|l| l.place.in_features).max().unwrap_or(0) as u64
}

/// Inputs, outputs and what is made of them, as f32, and the operands of products.
fn pass(stage: &Stage, tokens: u64) -> u64 {
    let own = || stage.linears.iter();
    let width = own().map(|l| l.in_features).max().unwrap_or(0);
    let outputs: usize = own().map(|l| l.out_features).sum();
    let held = stage.holds().unwrap_or(0);
    4 * tokens * (3 * width + outputs + held) as u64
}
