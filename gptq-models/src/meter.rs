//! How far a run is, in floating-point operations.

use crate::{Progress, plan::LinearPlan};

/// Operations of one stage.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cost {
    /// Per sample: what the stage's input sums up to, and passes with original weights.
    pub(crate) gather: f64,
    /// Once.
    pub(crate) solve: f64,
    /// Per sample: the pass with quantized weights.
    pub(crate) forward: f64,
}

impl Cost {
    /// The linears of a group over samples of which they see `tokens` each. `originals` counts the passes with
    /// original weights; `native` says whether inputs of the original model are compared too.
    pub(crate) fn of(linears: &[LinearPlan], tokens: f64, originals: usize, native: bool) -> Self {
        let width = linears.first().map_or(0, |l| l.place.in_features) as f64;
        let outputs: f64 = linears.iter().map(|l| l.place.out_features as f64).sum();
        let forward = 2.0 * width * outputs * tokens;
        // The Gram matrix is symmetric, the cross moment is not.
        let moments = if native { 3.0 } else { 1.0 };
        Self {
            gather: moments * width * width * tokens + originals as f64 * forward,
            // Factor, column loop and the loss of round-to-nearest, which run slower than products.
            solve: width * width * width + 16.0 * outputs * width * width,
            forward,
        }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            gather: self.gather + other.gather,
            solve: self.solve + other.solve,
            forward: self.forward + other.forward,
        }
    }

    pub(crate) fn total(self, samples: usize) -> f64 {
        self.solve + samples as f64 * (self.gather + self.forward)
    }
}

/// Turns operations done into a share of the whole.
pub(crate) struct Meter<'a> {
    done: f64,
    total: f64,
    pub(crate) progress: &'a mut dyn Progress,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(total: f64, progress: &'a mut dyn Progress) -> Self {
        Self { done: 0.0, total, progress }
    }

    pub(crate) fn add(&mut self, operations: f64, label: &str) {
        self.done += operations;
        self.progress.advance((self.done / self.total).min(1.0), label);
    }
}
