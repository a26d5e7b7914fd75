//! Text, a token at a time.

use std::{ops::ControlFlow, time::Instant};

use gptq_pack::PackedBackend;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use crate::{Error, KvCache, Model, evaluate::argmax};

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampling {
    /// The most likely one.
    Greedy,
    /// Drawn at random.
    Random {
        /// Divides the logits; above 0. Small values approach greedy.
        temperature: f32,
        /// Only the k most likely tokens; 0 for all.
        top_k: usize,
        /// Only the most likely tokens that together reach this probability; 1 for all.
        top_p: f32,
        /// Same seed, same text.
        seed: u64,
    },
}

/// What was generated, and how fast.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// New tokens, without the one that ended the text.
    pub ids: Vec<u32>,
    /// Whether an end-of-text token came before the limit.
    pub ended: bool,
    /// Seconds to read the prompt.
    pub prefill_seconds: f64,
    /// Seconds for all tokens after the first.
    pub decode_seconds: f64,
}

/// Continues `prompt` by up to `max_new_tokens`, with a key-value cache. `on_token` sees each new
/// token at once and may stop the generation.
///
/// # Errors
/// [`Error::Input`] for an empty prompt, ids outside the vocabulary or senseless sampling settings;
/// and the backend's.
pub fn generate<B: PackedBackend>(
    model: &Model<B>,
    prompt: &[u32],
    max_new_tokens: usize,
    sampling: Sampling,
    mut on_token: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Generated, Error> {
    if prompt.is_empty() {
        return Err(Error::input("the prompt has no tokens; give some text to continue"));
    }
    let mut chooser = Chooser::new(sampling)?;
    let mut choose = |ids: &[u32], cache: &mut KvCache<B>| match sampling {
        Sampling::Greedy => model.next_token(ids, cache),
        Sampling::Random { .. } => Ok(chooser.choose(&model.next_logits(ids, cache)?)),
    };
    let mut cache = model.cache(prompt.len() + max_new_tokens)?;
    let started = Instant::now();
    let mut id = choose(prompt, &mut cache)?;
    let mut out = Generated {
        ids: Vec::new(),
        ended: false,
        prefill_seconds: started.elapsed().as_secs_f64(),
        decode_seconds: 0.0,
    };
    let started = Instant::now();
    for remaining in (0..max_new_tokens).rev() {
        out.ended = model.config().eos_token_ids.contains(&id);
        if out.ended {
            break;
        }
        out.ids.push(id);
        if on_token(id).is_break() {
            break;
        }
        if remaining > 0 {
            id = choose(&[id], &mut cache)?;
        }
    }
    out.decode_seconds = started.elapsed().as_secs_f64();
    Ok(out)
}

struct Chooser {
    sampling: Sampling,
    rng: StdRng,
}

impl Chooser {
    fn new(sampling: Sampling) -> Result<Self, Error> {
        let seed = match sampling {
            Sampling::Greedy => 0,
            Sampling::Random { temperature, top_p, seed, .. } => {
                if !(temperature > 0.0 && temperature.is_finite() && top_p > 0.0 && top_p <= 1.0) {
                    return Err(Error::input(format!(
                        "temperature is {temperature} and top_p {top_p}, but need temperature above \
                         0 and top_p in (0, 1]"
                    )));
                }
                seed
            }
        };
        Ok(Self { sampling, rng: StdRng::seed_from_u64(seed) })
    }

    fn choose(&mut self, logits: &[f32]) -> u32 {
        match self.sampling {
            Sampling::Greedy => argmax(logits) as u32,
            Sampling::Random { temperature, top_k, top_p, .. } => {
                draw(logits, temperature, top_k, top_p, &mut self.rng)
            }
        }
    }
}

fn draw(logits: &[f32], temperature: f32, top_k: usize, top_p: f32, rng: &mut impl Rng) -> u32 {
    let top = logits[argmax(logits)];
    let weight = |(id, &x): (usize, &f32)| (id as u32, f64::from((x - top) / temperature).exp());
    let mut candidates: Vec<(u32, f64)> = logits.iter().enumerate().map(weight).collect();
    // Stable, so that equal logits are drawn alike on every machine.
    candidates.sort_by(|a, b| b.1.total_cmp(&a.1));
    if top_k > 0 {
        candidates.truncate(top_k);
    }
    let total: f64 = candidates.iter().map(|c| c.1).sum();
    let mut kept = 0;
    let mut mass = 0.0;
    while kept < candidates.len() && (kept == 0 || mass < total * f64::from(top_p)) {
        mass += candidates[kept].1;
        kept += 1;
    }
    let mut at = rng.random::<f64>() * mass;
    for &(id, weight) in &candidates[..kept] {
        at -= weight;
        if at < 0.0 {
            return id;
        }
    }
    candidates[kept - 1].0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restrictions_leave_only_the_likely() {
        let logits = [0.0, 3.0, 1.0, 2.9];
        let mut rng = StdRng::seed_from_u64(7);
        for _ in 0..200 {
            assert_eq!(draw(&logits, 1.0, 1, 1.0, &mut rng), 1);
            assert!([1, 3].contains(&draw(&logits, 1.0, 2, 1.0, &mut rng)));
            assert!([1, 3].contains(&draw(&logits, 1.0, 0, 0.8, &mut rng)));
            assert_eq!(draw(&logits, 1e-3, 0, 1.0, &mut rng), 1);
        }
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [0.0, 1.0f32.exp().ln() + 1.0];
        let mut rng = StdRng::seed_from_u64(1);
        let n = 20_000;
        let ones = (0..n).filter(|_| draw(&logits, 1.0, 0, 1.0, &mut rng) == 1).count();
        let want = 2f64.exp() / (1.0 + 2f64.exp());
        assert!((ones as f64 / f64::from(n) - want).abs() < 0.01);
    }
}
