//! [`forecast`]: what a run will need and take, from headers alone.

use std::{slice, time::Instant};

use gptq_core::{Moments, SolveJob};
use gptq_pack::PackedBackend;
use ndarray::Array2;
use serde::Serialize;

use crate::{
    Architecture, Checkpoint, Error, Method, QuantizeOptions,
    graph::Then,
    memory::{Need, PROGRAM},
    meter::Cost,
    plan::Plan,
    run::together,
    unit::groups,
};

/// What a run will need and take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Linears to quantize.
    pub linears: usize,
    /// Bytes of the result's tensors.
    pub output_bytes: u64,
    /// The most memory, with its parts.
    pub memory: MemoryForecast,
    /// Bytes of samples that do not fit into memory and wait in a scratch file.
    pub scratch_bytes: u64,
    /// Bytes that samples take where they are saved for a run that may be interrupted.
    pub saved_bytes: u64,
    /// Operations.
    pub work: Work,
}

/// Bytes of memory, part by part, at the moment that needs most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryForecast {
    /// The larger of the sum of the parts below, and of what is needed before the first block.
    pub peak_bytes: u64,
    /// Before the first block, to make tokens of the text.
    pub start_bytes: u64,
    /// Samples that wait.
    pub waiting_bytes: u64,
    /// Weights, as numbers and as codes.
    pub weights_bytes: u64,
    /// Hessians and factors.
    pub hessian_bytes: u64,
    /// What the samples of one pass compute.
    pub pass_bytes: u64,
    /// The program itself, and pages of the files it reads.
    pub program_bytes: u64,
}

/// Floating-point operations of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Work {
    /// Products with weights, and attention.
    pub forward: f64,
    /// Hessians.
    pub gather: f64,
    /// Factors, column loops and losses.
    pub solve: f64,
}

/// Operations per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// Products with weights.
    pub forward: f64,
    /// Hessians.
    pub gather: f64,
    /// Factors, column loops and losses.
    pub solve: f64,
}

/// What a run over `samples` samples of `length` tokens will need, with samples waiting as bf16
/// where `half`, and `text` bytes for what makes them of text. Cost: headers are read and no weight.
///
/// # Errors
/// As [`quantize`](crate::quantize()) for what headers can show; [`Error::Input`] with the sum if
/// `max_ram` cannot be kept.
pub fn forecast(
    checkpoint: &Checkpoint,
    options: &QuantizeOptions,
    (samples, length): (usize, usize),
    half: bool,
    text: u64,
) -> Result<Forecast, Error> {
    let arch = Architecture::of(checkpoint)?;
    let options = &options.with_head_rule(&arch.head().name)?;
    options.validate()?;
    let plan = Plan::new(checkpoint, &arch, options)?;
    let linears = plan.linears().filter(|linear| linear.config.is_some()).count();
    let output_bytes = plan.outputs.iter().map(|spec| spec.nbytes() as u64).sum();
    let rounds = options.method == Method::Rtn;
    let tokens = if rounds { 0 } else { (samples * length) as u64 };
    let streams = if plan.needs_native() { 2 } else { 1 };
    let need = match rounds {
        true => Need::of_rounding(&plan),
        false => {
            let tokens = together(samples, length) * length;
            Need::of(&arch.graph, &plan, options, tokens, half)
        }
    };
    let (residual, channel) = (
        4 * arch.config.hidden_size as u64 * tokens * streams,
        if half { 2 } else { 4 } * tokens * streams,
    );
    let most = residual + channel * need.most_held();
    let room = match options.max_ram {
        Some(limit) => need.leaves(limit)?,
        None => u64::MAX,
    };
    // What does not fit is computed again from what samples always hold.
    let wants = if most > room { residual } else { most };
    let mut memory = need.forecast(residual, channel, room);
    if !rounds {
        memory.start_bytes = text + PROGRAM;
        memory.peak_bytes = memory.peak_bytes.max(memory.start_bytes);
    }
    let mut work = Work::default();
    for (block, stages) in arch.graph.blocks.iter().zip(&plan.blocks) {
        for (stage, linears) in block.stages.iter().zip(stages) {
            for group in groups(stage, options.routing) {
                let cost = Cost::of(&linears[group.linears], tokens as f64, 0, streams == 2);
                work.add(cost, streams as f64);
            }
            for then in &stage.then {
                if let Then::Attend(attention) = then {
                    let width = attention.heads * attention.value_dim;
                    // Scores and values, of half the pairs of tokens.
                    work.forward += 2.0 * (tokens * streams) as f64 * (length * width) as f64;
                }
            }
        }
    }
    if let Some(head) = &plan.head {
        let cost = Cost::of(slice::from_ref(head), tokens as f64, 0, streams == 2);
        work.add(Cost { forward: 0.0, ..cost }, 1.0);
    }
    Ok(Forecast {
        linears,
        output_bytes,
        memory,
        scratch_bytes: wants.saturating_sub(room),
        saved_bytes: residual,
        work: if rounds { Work::default() } else { work },
    })
}

impl Work {
    fn add(&mut self, cost: Cost, streams: f64) {
        self.forward += streams * cost.forward;
        self.gather += cost.gather;
        self.solve += cost.solve;
    }

    /// Seconds at a speed.
    pub fn seconds(&self, speed: &Speed) -> f64 {
        self.forward / speed.forward + self.gather / speed.gather + self.solve / speed.solve
    }
}

/// Tokens of the measurement.
const TOKENS: usize = 512;

/// Measures how fast a backend does what a run consists of, for linears of this width. Takes about
/// `seconds`.
///
/// # Errors
/// The backend's.
pub fn measure_speed<B: PackedBackend>(
    backend: &B,
    width: usize,
    seconds: f64,
) -> Result<Speed, Error> {
    // Wider ones run at much the same speed and would take too long to solve.
    let width = width.clamp(64, 2048);
    let wave = |rows: usize| {
        Array2::from_shape_fn((rows, width), |(r, c)| {
            ((r * 31 + c * 17) % 101) as f32 / 101.0 - 0.5
        })
    };
    let weight = wave(width);
    let x = backend.upload(wave(TOKENS).view())?;
    let prepared = backend.prepare_for_many_tokens(weight.clone(), None)?;
    let product = 2.0 * (width * width * TOKENS) as f64;
    let forward = rate(seconds / 3.0, product, || {
        backend.linears(&x, &[&prepared])?;
        Ok(())
    })?;
    let mut gram = backend.zeros(width, width)?;
    let gather =
        rate(seconds / 3.0, product / 2.0, || Ok(backend.accumulate_gram(&mut gram, &x)?))?;
    let config = gptq_core::QuantConfig::default();
    let n = width as f64;
    let solve = rate(seconds / 3.0, n * n * n + 16.0 * n * n * n, || {
        let mut gram = backend.zeros(width, width)?;
        backend.accumulate_gram(&mut gram, &x)?;
        let moments = Moments { gram, cross: None, tokens: TOKENS as u64 };
        let jobs = [SolveJob { weight: weight.view(), config: &config }];
        backend.solve(moments, &jobs)?;
        Ok(())
    })?;
    Ok(Speed { forward, gather, solve })
}

/// Operations per second of something, done again and again for a while.
fn rate(
    seconds: f64,
    operations: f64,
    mut act: impl FnMut() -> Result<(), Error>,
) -> Result<f64, Error> {
    act()?;
    let (started, mut times) = (Instant::now(), 0.0);
    loop {
        act()?;
        times += 1.0;
        let elapsed = started.elapsed().as_secs_f64();
        if elapsed >= seconds {
            return Ok(times * operations / elapsed);
        }
    }
}
