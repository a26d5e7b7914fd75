//! The pipeline: one forward pass, fully sequential, every product computed once.
//!
//! For each stage of each block: accumulate one Hessian from the input that its linears share,
//! factor it once, quantize the linears, and move every sample on with the *quantized* weights. So
//! later stages see the errors of earlier ones, at the cost of a single forward pass.

use std::{path::Path, time::Instant};

use gptq_core::{SolveJob, Solved, round_to_nearest};
use gptq_pack::PackedBackend;
use ndarray::Array2;

use crate::{
    Architecture, Checkpoint, Error, LayerReport, Method, Progress, QuantizeOptions, Report,
    block::{Interpreter, Positions, Stream},
    model::check_ids,
    output::Output,
    plan::{LinearPlan, Plan},
    weights::{Linear, Loader, StageWeights, dense_weight},
};

/// Quantizes a checkpoint into the folder `out`, which gets its name only when it is whole.
///
/// `samples` are calibration tokens, one list per sample, all of one length; empty for
/// [`Method::Rtn`]. Memory: one block of weights and the activations of all samples, in f32.
///
/// # Errors
/// Whatever is wrong with the source, the settings or the output folder, named; see [`Error`].
/// Nothing is left under the name `out` then.
pub fn quantize<B: PackedBackend>(
    checkpoint: &Checkpoint,
    samples: &[Vec<u32>],
    backend: &B,
    options: &QuantizeOptions,
    out: &Path,
    progress: &mut dyn Progress,
) -> Result<Report, Error> {
    let started = Instant::now();
    let arch = Architecture::from_config(checkpoint.config(), &checkpoint.config_file())?;
    let plan = Plan::new(checkpoint, &arch, options)?;
    if options.method == Method::Gptq {
        check_samples(samples, &arch)?;
    }
    for notice in &plan.notices {
        progress.notice(notice);
    }
    let mut output = Output::create(out, checkpoint, &plan, options)?;
    let layers = match options.method {
        Method::Gptq => {
            let run = Run { checkpoint, arch: &arch, backend, plan: &plan, samples };
            run.gptq(&mut output, progress)?
        }
        Method::Rtn => rtn(checkpoint, &plan, &mut output, progress)?,
    };
    output.finish(checkpoint, plan, layers, options, started)
}

struct Run<'a, B> {
    checkpoint: &'a Checkpoint,
    arch: &'a Architecture,
    backend: &'a B,
    plan: &'a Plan,
    samples: &'a [Vec<u32>],
}

impl<B: PackedBackend> Run<'_, B> {
    fn gptq(
        &self,
        output: &mut Output<'_>,
        progress: &mut dyn Progress,
    ) -> Result<Vec<LayerReport>, Error> {
        let loader = Loader {
            checkpoint: self.checkpoint,
            arch: self.arch,
            quantization: None,
            backend: self.backend,
        };
        let interpreter = Interpreter { backend: self.backend, arch: self.arch };
        let length = self.samples[0].len();
        let positions = Positions::new(self.backend, &self.arch.config.rope, 0, length)?;
        let tokens = self.samples.len() * length;
        let mut meter = Meter::new(self.plan, tokens, progress);

        let embed = loader.embed()?;
        let mut streams = Vec::with_capacity(self.samples.len());
        for sample in self.samples {
            streams.push(Stream::new(self.backend.gather(&embed, sample)?));
        }
        drop(embed);

        let mut reports = Vec::new();
        for (b, stages) in self.plan.linears.iter().enumerate() {
            for (s, linears) in stages.iter().enumerate() {
                let started = Instant::now();
                let cost = Cost::of(linears, tokens, streams.len());
                let label = linears.first().map_or("", |l| &l.place.name);

                let norm = loader.stage_norm(b, s)?;
                let width = linears.first().map_or(0, |l| l.place.in_features);
                let mut gram = self.backend.zeros(width, width)?;
                // A stage that rules skip whole is solved by nobody.
                let solving = linears.iter().any(|l| l.config.is_some());
                for stream in &streams {
                    if solving {
                        let input = interpreter.input(s, norm.as_ref(), stream)?;
                        self.backend.accumulate_gram(&mut gram, &input)?;
                    }
                    meter.add(cost.gram, label);
                }
                let (linears, mut finished) = self.stage(&loader, linears, gram, output)?;
                meter.add(cost.solve, label);
                let weights = StageWeights { norm, linears };
                for stream in &mut streams {
                    interpreter.advance(s, &weights, stream, &positions, None)?;
                    meter.add(cost.forward, label);
                }
                let seconds = started.elapsed().as_secs_f64() / finished.len().max(1) as f64;
                for report in &mut finished {
                    report.seconds = seconds;
                    meter.progress.layer(report);
                }
                reports.append(&mut finished);
            }
        }
        Ok(reports)
    }

    /// Quantizes, writes and proves the linears of a stage, and returns what the samples go on with:
    /// quantized weights, and dense ones where a rule skips.
    fn stage(
        &self,
        loader: &Loader<'_, B>,
        linears: &[LinearPlan],
        gram: B::Tensor,
        output: &mut Output<'_>,
    ) -> Result<(Vec<Linear<B>>, Vec<LayerReport>), Error> {
        let tokens = self.samples.iter().map(Vec::len).sum::<usize>() as u64;
        let read = |l: &LinearPlan| dense_weight(self.checkpoint, &l.place);
        let mut weights = linears.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let mut solved = self.solve(gram, tokens, linears, &weights)?.into_iter();
        let mut reports = Vec::new();
        for (linear, weight) in linears.iter().zip(&mut weights) {
            let Some((config, solved)) = linear.config.and_then(|c| Some((c, solved.next()?)))
            else {
                continue;
            };
            output.write_layer(&linear.place, &config, &solved.quantized)?;
            *weight = solved.quantized.dequantize();
            reports.push(layer_report(linear, &config, solved, tokens));
        }
        let upload = |(linear, weight): (&LinearPlan, Array2<f32>)| {
            let weight = self.backend.upload(weight.view())?;
            Ok(Linear::Dense { weight, bias: loader.bias(&linear.place)? })
        };
        let linears = linears.iter().zip(weights).map(upload).collect::<Result<_, Error>>()?;
        Ok((linears, reports))
    }

    fn solve(
        &self,
        gram: B::Tensor,
        tokens: u64,
        linears: &[LinearPlan],
        weights: &[Array2<f32>],
    ) -> Result<Vec<Solved>, Error> {
        let jobs: Vec<SolveJob<'_>> = linears
            .iter()
            .zip(weights)
            .filter_map(|(linear, weight)| {
                Some(SolveJob { weight: weight.view(), config: linear.config.as_ref()? })
            })
            .collect();
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        self.backend.solve(gram, tokens, &jobs).map_err(|source| {
            let names: Vec<&str> = linears.iter().map(|l| l.place.name.as_str()).collect();
            Error::Layer { layer: names.join(", "), source }
        })
    }
}

fn layer_report(
    linear: &LinearPlan,
    config: &gptq_core::QuantConfig,
    solved: Solved,
    tokens: u64,
) -> LayerReport {
    LayerReport {
        name: linear.place.name.clone(),
        bits: config.bits.get(),
        group_size: config.group_size.to_file(),
        loss: Some(solved.loss),
        rtn_loss: Some(solved.rtn_loss),
        damp_percent: Some(solved.damp.percent),
        damp_attempts: Some(solved.damp.attempts),
        tokens,
        dead_columns: solved.dead_columns,
        fallback: false,
        seconds: 0.0,
    }
}

/// Round to nearest knows no inputs, so there is nothing to propagate.
fn rtn(
    checkpoint: &Checkpoint,
    plan: &Plan,
    output: &mut Output<'_>,
    progress: &mut dyn Progress,
) -> Result<Vec<LayerReport>, Error> {
    let all: Vec<&LinearPlan> = plan.linears.iter().flatten().flatten().collect();
    let mut reports = Vec::new();
    for (done, linear) in all.iter().enumerate() {
        let Some(config) = linear.config else { continue };
        let started = Instant::now();
        let weight = dense_weight(checkpoint, &linear.place)?;
        let failed = |source| Error::Layer { layer: linear.place.name.clone(), source };
        let quantized = round_to_nearest(weight.view(), &config).map_err(failed)?;
        output.write_layer(&linear.place, &config, &quantized)?;
        let report = LayerReport {
            name: linear.place.name.clone(),
            bits: config.bits.get(),
            group_size: config.group_size.to_file(),
            loss: None,
            rtn_loss: None,
            damp_percent: None,
            damp_attempts: None,
            tokens: 0,
            dead_columns: 0,
            fallback: false,
            seconds: started.elapsed().as_secs_f64(),
        };
        progress.layer(&report);
        progress.advance((done + 1) as f64 / all.len() as f64, &linear.place.name);
        reports.push(report);
    }
    Ok(reports)
}

fn check_samples(samples: &[Vec<u32>], arch: &Architecture) -> Result<(), Error> {
    let Some(first) = samples.first() else {
        return Err(Error::input(
            "GPTQ needs calibration tokens and there are none; give a text to calibrate on",
        ));
    };
    for sample in samples {
        check_ids(sample, &arch.config)?;
        if sample.len() != first.len() {
            return Err(Error::input(format!(
                "calibration samples have {} and {} tokens, but must all have the same length",
                first.len(),
                sample.len()
            )));
        }
    }
    Ok(())
}

/// Floating-point operations of one stage, the measure of progress.
struct Cost {
    /// Per sample.
    gram: f64,
    /// Once.
    solve: f64,
    /// Per sample.
    forward: f64,
}

impl Cost {
    fn of(linears: &[LinearPlan], tokens: usize, samples: usize) -> Self {
        let width = linears.first().map_or(0, |l| l.place.in_features) as f64;
        let outputs: f64 = linears.iter().map(|l| l.place.out_features as f64).sum();
        let per_sample = tokens as f64 / samples.max(1) as f64;
        Self {
            gram: width * width * per_sample,
            // Factor, column loop and the loss of round-to-nearest, which run slower than products.
            solve: width * width * width + 16.0 * outputs * width * width,
            forward: 2.0 * width * outputs * per_sample,
        }
    }
}

/// Turns operations done into a share of the whole.
struct Meter<'a> {
    done: f64,
    total: f64,
    progress: &'a mut dyn Progress,
}

impl<'a> Meter<'a> {
    fn new(plan: &Plan, tokens: usize, progress: &'a mut dyn Progress) -> Self {
        let stages = plan.linears.iter().flatten();
        let cost = |linears: &Vec<LinearPlan>| {
            let cost = Cost::of(linears, tokens, 1);
            cost.gram + cost.solve + cost.forward
        };
        Self { done: 0.0, total: stages.map(cost).sum(), progress }
    }

    fn add(&mut self, operations: f64, label: &str) {
        self.done += operations;
        self.progress.advance((self.done / self.total).min(1.0), label);
    }
}
