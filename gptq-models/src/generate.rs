//! Text, a token at a time.

use std::{ops::ControlFlow, time::Instant};

use gptq_core::Draw;
use gptq_pack::PackedBackend;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{Error, KvCache, Model};

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
    let mut chance = match sampling {
        Sampling::Greedy => None,
        Sampling::Random { temperature, top_k, top_p, seed } => {
            Some((Draw { temperature, top_k, top_p }, StdRng::seed_from_u64(seed)))
        }
    };
    let mut choose = |ids: &[u32], cache: &mut KvCache<B>| match &mut chance {
        None => model.next_token(ids, cache),
        Some((how, rng)) => model.draw_token(ids, cache, *how, rng.random()),
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
