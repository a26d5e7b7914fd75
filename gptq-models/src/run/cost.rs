//! What the parts of a run cost, for its progress.

use std::slice;

use gptq_pack::PackedBackend;

use super::Run;
use crate::{Routing, graph::Stage, meter::Cost, plan::LinearPlan, unit::groups};

impl<B: PackedBackend> Run<'_, B> {
    pub(super) fn cost(&self, stage: &Stage, linears: &[LinearPlan], last: bool) -> Cost {
        let originals = usize::from(self.native) + usize::from(!last);
        let tokens = self.length as f64;
        let router = stage.experts.as_ref().and_then(|experts| experts.router.as_ref());
        let count = stage.experts.as_ref().map_or(1, |experts| experts.linears.len());
        // The second stage of experts does not know how many a token takes; two is usual.
        let chosen = router.map_or(2, |router| router.top).min(count);
        let share = match self.solver.options.routing {
            Routing::Routed => chosen as f64 / count as f64,
            Routing::All => 1.0,
        };
        groups(stage, self.solver.options.routing)
            .into_iter()
            .map(|group| {
                let tokens = if group.expert.is_some() { tokens * share } else { tokens };
                Cost::of(&linears[group.linears], tokens, originals, self.native)
            })
            .fold(Cost::default(), Cost::plus)
    }

    pub(super) fn head_cost(&self, head: &[LinearPlan]) -> Cost {
        Cost { forward: 0.0, ..Cost::of(head, self.length as f64, 0, self.native) }
    }

    /// Of a run that begins behind `passed` blocks, `quantized` of all being so already.
    pub(super) fn operations(&self, passed: usize, quantized: usize) -> f64 {
        let mut total = 0.0;
        let blocks = self.solver.loader.arch.graph.blocks.iter().zip(&self.plan.blocks);
        for (at, (block, linears)) in blocks.enumerate().skip(passed) {
            for unit in self.units(block.stages.len()) {
                for stage in unit.clone() {
                    let last = stage + 1 == unit.end;
                    let cost = self.cost(&block.stages[stage], &linears[stage], last);
                    total += match at < quantized {
                        true => self.passing(cost),
                        false => cost.total(self.samples.len()),
                    };
                }
            }
        }
        let head = self.plan.head.as_ref().filter(|_| quantized <= self.plan.blocks.len());
        let head = head.map(slice::from_ref);
        total + head.map_or(0.0, |head| self.head_cost(head).total(self.samples.len()))
    }

    /// Of sending all samples through a stage that is quantized already.
    pub(super) fn passing(&self, cost: Cost) -> f64 {
        let streams = if self.native { 2.0 } else { 1.0 };
        streams * cost.forward * self.samples.len() as f64
    }
}
