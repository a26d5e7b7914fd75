//! How much memory a run needs, from headers alone, and how much it took.

use serde::{Deserialize, Serialize};

use crate::{
    Error, MemoryForecast,
    graph::{Graph, Stage},
    plan::{LinearPlan, Plan},
};

/// The program, its threads and small things.
const PROGRAM: u64 = 64 << 20;

/// Where memory went, in bytes. All but the first two are what the sizes in the headers come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryReport {
    /// The most that the process held at a time, as the system counts it; null where it does not.
    /// Counts pages of the model's files that happen to be mapped.
    pub peak_bytes: Option<u64>,
    /// Samples that waited for others, the most at a time.
    pub waiting_bytes: u64,
    /// Samples that did not fit, in the scratch file.
    pub scratch_bytes: u64,
    /// The largest stage: its weights as f32, their codes, and what they become.
    pub weights_bytes: u64,
    /// The widest Hessian and its factor.
    pub hessian_bytes: u64,
    /// What the samples of one pass compute.
    pub pass_bytes: u64,
}

/// What a run needs beside the samples that wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    weights: u64,
    hessian: u64,
    pass: u64,
}

impl Need {
    /// Of a run that sends `tokens` through a stage at a time, or that `rounds` one linear after
    /// the other.
    pub(crate) fn of(graph: &Graph, plan: &Plan, tokens: usize, rounds: bool) -> Self {
        let stages = || graph.blocks.iter().zip(&plan.blocks);
        let stages = || stages().flat_map(|(block, plans)| block.stages.iter().zip(plans));
        let head = plan.head.iter().map(std::slice::from_ref);
        let lists = || stages().map(|(_, linears)| &linears[..]).chain(head.clone());
        let matrices = if plan.needs_native() { 4 } else { 2 };
        let width = |linears: &[LinearPlan]| linears.iter().map(|l| l.place.in_features).max();
        let widest = lists().filter_map(width).max().unwrap_or(0) as u64;
        if rounds {
            let largest = lists().flatten().map(|l| weights(std::slice::from_ref(l))).max();
            return Self { weights: largest.unwrap_or(0), hessian: 0, pass: 0 };
        }
        Self {
            weights: lists().map(weights).max().unwrap_or(0),
            hessian: matrices * 4 * widest * widest,
            pass: stages().map(|(stage, _)| pass(stage, tokens as u64)).max().unwrap_or(0),
        }
    }

    /// What a limit leaves for samples that wait.
    ///
    /// # Errors
    /// [`Error::Input`] if it is less than what is needed without them.
    pub(crate) fn leaves(&self, limit: u64) -> Result<u64, Error> {
        let Self { weights, hessian, pass } = *self;
        let needed = weights + hessian + pass + PROGRAM;
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        limit.checked_sub(needed).ok_or_else(|| {
            Error::input(format!(
                "this run does not fit {} MiB: it needs {} MiB for the weights of its largest \
                 stage, {} MiB for its widest Hessian, {} MiB for one pass and {} MiB for the \
                 program, together {} MiB; allow that much",
                limit >> 20,
                mib(weights),
                mib(hessian),
                mib(pass),
                mib(PROGRAM),
                mib(needed)
            ))
        })
    }

    /// With so many bytes of samples waiting.
    pub(crate) fn forecast(&self, waiting_bytes: u64) -> MemoryForecast {
        let Self { weights, hessian, pass } = *self;
        MemoryForecast {
            peak_bytes: waiting_bytes + weights + hessian + pass + PROGRAM,
            waiting_bytes,
            weights_bytes: weights,
            hessian_bytes: hessian,
            pass_bytes: pass,
            program_bytes: PROGRAM,
        }
    }

    pub(crate) fn report(&self, (waiting, scratch): (u64, u64)) -> MemoryReport {
        MemoryReport {
            peak_bytes: None,
            waiting_bytes: waiting,
            scratch_bytes: scratch,
            weights_bytes: self.weights,
            hessian_bytes: self.hessian,
            pass_bytes: self.pass,
        }
    }
}

/// Originals as f32, codes, and one linear more as what it becomes.
fn weights(linears: &[LinearPlan]) -> u64 {
    let size = |l: &LinearPlan| (l.place.in_features * l.place.out_features) as u64;
    let largest = linears.iter().map(size).max().unwrap_or(0);
    5 * linears.iter().map(size).sum::<u64>() + 4 * largest
}

/// Inputs, outputs and what is made of them, as f32, and the operands of products.
fn pass(stage: &Stage, tokens: u64) -> u64 {
    let own = || stage.linears.iter();
    let width = own().map(|l| l.in_features).max().unwrap_or(0);
    let outputs: usize = own().map(|l| l.out_features).sum();
    let held = stage.holds().unwrap_or(0);
    4 * tokens * (3 * width + outputs + held) as u64
}

/// The most memory this process held so far.
pub(crate) fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
