//! How much memory a run needs, from headers alone, and how much it took.

use serde::{Deserialize, Serialize};

mod moments;

use crate::{Error, MemoryForecast, QuantizeOptions, graph::Graph, plan::Plan};
use moments::{Moment, size_of};

/// The program, its threads and small things.
pub(crate) const PROGRAM: u64 = 20 << 20;

/// The program that only rounds: it reads no text, and computes nothing on many threads.
const ROUNDING: u64 = 12 << 20;

/// What a limit leaves free, because what is needed is known to a few percent only.
const SPARE: u64 = 20 << 20;

/// Where memory went, in bytes: the most of each part, at whatever moment that was. All but the
/// first three are what the sizes in the headers come to.
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
    /// Weights of the largest stage: as f32, their codes, and what products read.
    pub weights_bytes: u64,
    /// The widest Hessian and its factor.
    pub hessian_bytes: u64,
    /// What the samples of one pass compute.
    pub pass_bytes: u64,
}

/// What a run needs beside the samples that wait.
#[derive(Clone, Debug)]
pub(crate) struct Need {
    moments: Vec<Moment>,
}

impl Moment {
    fn sum(&self) -> u64 {
        self.weights + self.hessian + self.pass
    }

    /// With the program, the files it reads, and what allocators keep: of pieces above 32 MiB,
    /// nothing.
    fn with_program(self) -> Self {
        Self { program: PROGRAM + self.mapped + (self.sum() / 16).min(16 << 20), ..self }
    }
}

impl Need {
    /// Of a run that sends `tokens` through a stage at a time, multiplying bf16 where `half`.
    pub(crate) fn of(
        graph: &Graph,
        plan: &Plan,
        options: &QuantizeOptions,
        tokens: usize,
        half: bool,
    ) -> Self {
        let moments = moments::of(graph, plan, options, tokens as u64, half);
        Self { moments: moments.into_iter().map(Moment::with_program).collect() }
    }

    /// Of a run that rounds one linear after the other.
    pub(crate) fn of_rounding(plan: &Plan) -> Self {
        let largest = plan.linears().map(size_of).max().unwrap_or(0);
        let moment = Moment { weights: 9 * largest, program: ROUNDING, ..Moment::default() };
        Self { moments: vec![moment] }
    }

    /// The moment that needs most, with what waits then.
    fn largest(&self, more: impl Fn(&Moment) -> u64) -> (Moment, u64) {
        let all = self.moments.iter().map(|moment| (*moment, more(moment)));
        let total = |(moment, more): &(Moment, u64)| moment.sum() + moment.program + more;
        all.max_by_key(total).unwrap_or_default()
    }

    /// What a limit leaves for samples that wait.
    ///
    /// # Errors
    /// [`Error::Input`] if it is less than what is needed without them.
    pub(crate) fn leaves(&self, limit: u64) -> Result<u64, Error> {
        let (moment, behind) = self.largest(|moment| moment.behind);
        let Moment { weights, hessian, pass, .. } = moment;
        let (weights, program) = (weights + behind, moment.program + SPARE);
        let needed = weights + hessian + pass + program;
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        limit.checked_sub(needed).ok_or_else(|| {
            Error::input(format!(
                "this run does not fit {} MiB: it needs {} MiB for weights, {} MiB for Hessians, {} \
                 MiB for one pass and {} MiB for the program and the files it reads, together {} \
                 MiB; allow that much",
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
    /// and for each channel more, or, where that is more than the `room`, are computed again.
    pub(crate) fn forecast(&self, always: u64, channel: u64, room: u64) -> MemoryForecast {
        let fits = |moment: &Moment| always + channel * moment.held <= room;
        // What samples once waited in is kept for them.
        let held = self.moments.iter().filter(|moment| fits(moment)).map(|moment| moment.held);
        let pool = channel * held.max().unwrap_or(0);
        let waits = |moment: &Moment| match fits(moment) {
            true => always + channel * moment.held,
            false => (always + pool).min(room),
        };
        let behind = |moment: &Moment| if fits(moment) { 0 } else { moment.behind };
        let (moment, _) = self.largest(|moment| waits(moment) + behind(moment));
        let (waiting_bytes, weights_bytes) = (waits(&moment), moment.weights + behind(&moment));
        let program_bytes = moment.program;
        MemoryForecast {
            start_bytes: 0,
            peak_bytes: waiting_bytes
                + weights_bytes
                + moment.hessian
                + moment.pass
                + program_bytes,
            waiting_bytes,
            weights_bytes,
            hessian_bytes: moment.hessian,
            pass_bytes: moment.pass,
            program_bytes,
        }
    }

    /// The most channels that samples hold beside the residual stream.
    pub(crate) fn most_held(&self) -> u64 {
        self.moments.iter().map(|moment| moment.held).max().unwrap_or(0)
    }

    pub(crate) fn report(&self, (waiting, scratch): (u64, u64)) -> MemoryReport {
        let most = |of: fn(&Moment) -> u64| self.moments.iter().map(of).max().unwrap_or(0);
        MemoryReport {
            peak_bytes: None,
            waiting_bytes: waiting,
            scratch_bytes: scratch,
            weights_bytes: most(|moment| moment.weights),
            hessian_bytes: most(|moment| moment.hessian),
            pass_bytes: most(|moment| moment.pass),
        }
    }
}

/// The most memory this process held so far.
pub(crate) fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
