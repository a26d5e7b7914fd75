//! Perplexity, and how far a model has moved from the one it was made from.

use std::ops::Range;

use gptq_pack::PackedBackend;
use ndarray::{Array2, ArrayView1};
use rayon::prelude::*;
use serde::Serialize;

use crate::{Error, Model};

/// A run of tokens whose last `targets` are predicted from what stands before them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Where it lies in the text's ids.
    pub range: Range<usize>,
    /// Tokens scored; at most one less than the window's length.
    pub targets: usize,
}

/// The outcome of an evaluation. Field names are the keys of the JSON that people compare.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// `exp` of the mean negative log-likelihood of the scored tokens.
    pub ppl: f64,
    /// Tokens scored.
    pub tokens: usize,
    /// Windows run.
    pub windows: usize,
    /// Mean of `KL(reference ‖ model)` over the scored positions, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// Share of scored positions where both models' most likely token is the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1: Option<f64>,
    /// The reference's own perplexity on the same tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ppl_reference: Option<f64>,
}

/// Positions whose logits are held at once: 2048 × a vocabulary of 128k would be a gigabyte.
const ROWS: usize = 128;

#[derive(Clone, Copy, Default)]
struct Sums {
    nll: f64,
    nll_reference: f64,
    kl: f64,
    agreed: usize,
}

/// Runs every window through the model, and through the reference if there is one. `progress` is
/// told the number of windows done.
///
/// # Errors
/// [`Error::Input`] if there is nothing to score, ids are outside the vocabulary, the two models
/// have different ones, or logits are not numbers; and the backend's.
pub fn evaluate<B: PackedBackend>(
    model: &Model<B>,
    reference: Option<&Model<B>>,
    ids: &[u32],
    windows: &[Window],
    mut progress: impl FnMut(usize),
) -> Result<Evaluation, Error> {
    if let Some(reference) = reference {
        let (ours, theirs) = (model.config().vocab_size, reference.config().vocab_size);
        if ours != theirs {
            return Err(Error::input(format!(
                "the model's vocabulary is {ours}, the reference's {theirs}; they are not the same \
                 model"
            )));
        }
    }
    let mut sums = Sums::default();
    let mut tokens = 0;
    for (done, window) in windows.iter().enumerate() {
        let ids = &ids[window.range.clone()];
        let targets = window.targets.min(ids.len().saturating_sub(1));
        let hidden = model.hidden(ids)?;
        let hidden_reference = reference.map(|r| r.hidden(ids)).transpose()?;
        // Logits at position p predict token p + 1.
        let first = ids.len() - 1 - targets;
        for start in (first..ids.len() - 1).step_by(ROWS) {
            let rows: Vec<u32> =
                (start..(start + ROWS).min(ids.len() - 1)).map(|r| r as u32).collect();
            let logits = model.logits_of(&hidden, &rows)?;
            let logits_reference = match (reference, &hidden_reference) {
                (Some(reference), Some(hidden)) => Some(reference.logits_of(hidden, &rows)?),
                _ => None,
            };
            let scores = score(&logits, logits_reference.as_ref(), &ids[start + 1..]);
            for s in scores {
                sums.nll += s.nll;
                sums.nll_reference += s.nll_reference;
                sums.kl += s.kl;
                sums.agreed += s.agreed;
            }
        }
        tokens += targets;
        progress(done + 1);
    }
    if tokens == 0 {
        return Err(Error::input("there are no tokens to score"));
    }
    if sums.nll.is_nan() || sums.nll_reference.is_nan() {
        return Err(Error::input(
            "the logits are not numbers: activations overflow in this model, or its weights are \
             damaged",
        ));
    }
    let mean = |sum: f64| sum / tokens as f64;
    Ok(Evaluation {
        ppl: mean(sums.nll).exp(),
        tokens,
        windows: windows.len(),
        kl: reference.map(|_| mean(sums.kl).max(0.0)),
        top1: reference.map(|_| mean(sums.agreed as f64)),
        ppl_reference: reference.map(|_| mean(sums.nll_reference).exp()),
    })
}

/// One entry per row of logits, in order, so that sums do not depend on threads.
fn score(logits: &Array2<f32>, reference: Option<&Array2<f32>>, targets: &[u32]) -> Vec<Sums> {
    (0..logits.nrows())
        .into_par_iter()
        .map(|row| {
            let target = targets[row] as usize;
            let ours = logits.row(row);
            let (log_z, _) = log_sum_exp(ours);
            let mut sums = Sums { nll: log_z - f64::from(ours[target]), ..Sums::default() };
            if let Some(reference) = reference {
                let theirs = reference.row(row);
                let (log_z_theirs, weights) = log_sum_exp(theirs);
                sums.nll_reference = log_z_theirs - f64::from(theirs[target]);
                let shift = log_z - log_z_theirs;
                let total: f64 = weights.iter().sum();
                for ((&a, &b), weight) in theirs.iter().zip(ours).zip(weights) {
                    sums.kl += weight / total * (f64::from(a) - f64::from(b) + shift);
                }
                sums.agreed = usize::from(argmax(ours) == argmax(theirs));
            }
            sums
        })
        .collect()
}

/// `ln Σ eˣ`, and each entry's `eˣ` up to a common factor.
fn log_sum_exp(logits: ArrayView1<'_, f32>) -> (f64, Vec<f64>) {
    let top = f64::from(logits.fold(f32::NEG_INFINITY, |m, &x| m.max(x)));
    let weights: Vec<f64> = logits.iter().map(|&x| (f64::from(x) - top).exp()).collect();
    (top + weights.iter().sum::<f64>().ln(), weights)
}

/// The first of the largest.
pub(crate) fn argmax<'a>(logits: impl IntoIterator<Item = &'a f32>) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, &x) in logits.into_iter().enumerate() {
        if x > best.1 {
            best = (i, x);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};

    use super::score;

    #[test]
    fn constant_logits_have_the_entropy_of_the_vocabulary() {
        let logits = Array2::from_elem((3, 64), 1.5);
        let nll: f64 = score(&logits, None, &[0, 63, 7]).iter().map(|s| s.nll).sum();
        assert!(((nll / 3.0).exp() - 64.0).abs() < 1e-9);
    }

    #[test]
    fn divergence_of_two_known_distributions() {
        // p = (3/4, 1/4), q = (1/2, 1/2): KL(p ‖ q) = ln 2 − H(p).
        let p = array![[3f32.ln() + 5.0, 5.0]];
        let q = array![[-2.0f32, -2.0]];
        let sums = score(&q, Some(&p), &[1])[0];
        let want = 2f64.ln() + 0.75 * 0.75f64.ln() + 0.25 * 0.25f64.ln();
        assert!((sums.kl - want).abs() < 1e-6, "{} against {want}", sums.kl);
        assert!((sums.nll - 2f64.ln()).abs() < 1e-7);
        assert!((sums.nll_reference - 4f64.ln()).abs() < 1e-6);
        assert_eq!(sums.agreed, 1);
        assert_eq!(score(&p, Some(&p), &[0])[0].kl, 0.0);
    }
}
