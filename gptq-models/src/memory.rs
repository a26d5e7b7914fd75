//! How much memory a run needs, from headers alone, and how much it took.

use serde::{Deserialize, Serialize};

use crate::{
    Checkpoint, Error, MemoryForecast,
    graph::{Graph, Stage},
    plan::{LinearPlan, Plan},
};

/// The program, its threads and small things.
pub(crate) const PROGRAM: u64 = 20 << 20;

/// What a limit leaves free, because what is needed is known to a few percent only.
const SPARE: u64 = 44 << 20;

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
#[derive(Clone, Debug)]
pub(crate) struct Need {
    /// Pages of a block's original weights, mapped while it is worked on.
    mapped: u64,
    stages: Vec<StageNeed>,
}

/// What one stage needs.
#[derive(Clone, Copy, Debug, Default)]
struct StageNeed {
    weights: u64,
    hessian: u64,
    pass: u64,
    /// Channels that samples hold before it, beside the residual stream.
    held: u64,
}

impl StageNeed {
    fn sum(&self) -> u64 {
        self.weights + self.hessian + self.pass
    }
}

impl Need {
    /// Of a run that sends `tokens` through a stage at a time.
    pub(crate) fn of(checkpoint: &Checkpoint, graph: &Graph, plan: &Plan, tokens: usize) -> Self {
        let native = plan.needs_native();
        let mut stages = Vec::new();
        for (block, plans) in graph.blocks.iter().zip(&plan.blocks) {
            let mut held = 0;
            for (stage, linears) in block.stages.iter().zip(plans) {
                let weights = weights(linears);
                let pass = pass(stage, tokens as u64);
                stages.push(StageNeed { weights, hessian: hessian(linears, native), pass, held });
                held = stage.holds().unwrap_or(0) as u64;
            }
        }
        if let Some(head) = &plan.head {
            let linears = std::slice::from_ref(head);
            let (weights, hessian) = (weights(linears), hessian(linears, native));
            stages.push(StageNeed { weights, hessian, ..StageNeed::default() });
        }
        let of_block = |stages: &Vec<Vec<LinearPlan>>| {
            let tensors = stages.iter().flatten().filter_map(|linear| {
                Some(checkpoint.get(&format!("{}.weight", linear.place.name))?.bytes.len() as u64)
            });
            tensors.sum()
        };
        Self { mapped: plan.blocks.iter().map(of_block).max().unwrap_or(0), stages }
    }

    /// Of a run that rounds one linear after the other.
    pub(crate) fn of_rounding(plan: &Plan) -> Self {
        let largest = plan.linears().map(|l| weights(std::slice::from_ref(l))).max();
        let stage = StageNeed { weights: largest.unwrap_or(0), ..StageNeed::default() };
        Self { mapped: 0, stages: vec![stage] }
    }

    /// The stage that needs most, with what waits before it.
    fn largest(&self, waits: impl Fn(&StageNeed) -> u64) -> (StageNeed, u64) {
        let all = self.stages.iter().map(|stage| (*stage, waits(stage)));
        all.max_by_key(|(stage, waits)| stage.sum() + waits).unwrap_or_default()
    }

    /// What a limit leaves for samples that wait.
    ///
    /// # Errors
    /// [`Error::Input`] if it is less than what is needed without them.
    pub(crate) fn leaves(&self, limit: u64) -> Result<u64, Error> {
        let (stage, _) = self.largest(|_| 0);
        let StageNeed { weights, hessian, pass, .. } = stage;
        let program = self.program(&stage) + SPARE;
        let needed = weights + hessian + pass + program;
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        limit.checked_sub(needed).ok_or_else(|| {
            Error::input(format!(
                "this run does not fit {} MiB: it needs {} MiB for the weights of its largest \
                 stage, {} MiB for its widest Hessian, {} MiB for one pass and {} MiB for the \
                 program and the files it reads, together {} MiB; allow that much",
                limit >> 20,
                mib(weights),
                mib(hessian),
                mib(pass),
                mib(program),
                mib(needed)
            ))
        })
    }

    /// The most that is needed at a time, if samples take so many bytes for what they always hold
    /// and for each channel more, and so many may be in memory.
    pub(crate) fn forecast(&self, always: u64, channel: u64, room: u64) -> MemoryForecast {
        let (stage, waiting_bytes) =
            self.largest(|stage| (always + channel * stage.held).min(room));
        let program_bytes = self.program(&stage);
        MemoryForecast {
            start_bytes: 0,
            peak_bytes: waiting_bytes + stage.sum() + program_bytes,
            waiting_bytes,
            weights_bytes: stage.weights,
            hessian_bytes: stage.hessian,
            pass_bytes: stage.pass,
            program_bytes,
        }
    }

    /// The program, the files it reads, and what allocators keep beside large pieces.
    fn program(&self, stage: &StageNeed) -> u64 {
        PROGRAM + self.mapped + stage.sum() / 16
    }

    /// The most channels that samples hold beside the residual stream.
    pub(crate) fn most_held(&self) -> u64 {
        self.stages.iter().map(|stage| stage.held).max().unwrap_or(0)
    }

    pub(crate) fn report(&self, (waiting, scratch): (u64, u64)) -> MemoryReport {
        let (stage, _) = self.largest(|_| 0);
        MemoryReport {
            peak_bytes: None,
            waiting_bytes: waiting,
            scratch_bytes: scratch,
            weights_bytes: stage.weights,
            hessian_bytes: stage.hessian,
            pass_bytes: stage.pass,
        }
    }
}

/// The Hessian, in whose place its factor is made, and a quarter of it while that is; for GPTAQ also
/// the cross moment and what becomes of it.
fn hessian(linears: &[LinearPlan], native: bool) -> u64 {
    let width = linears.iter().map(|l| l.place.in_features).max().unwrap_or(0) as u64;
    if native { 12 * width * width } else { 5 * width * width }
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
