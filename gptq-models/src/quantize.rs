//! The pipeline: from a checkpoint and tokens to a folder of packed layers.
//!
//! For each stage of each block: accumulate one Hessian from the input that its linears share,
//! factor it once, quantize the linears, and move every sample on with the *quantized* weights. So
//! later stages see the errors of earlier ones, at the cost of a single forward pass.

use std::{path::Path, time::Instant};

use gptq_core::round_to_nearest;
use gptq_pack::PackedBackend;

use crate::{
    Architecture, Checkpoint, Error, Kept, LayerReport, Method, Progress, QuantizeOptions, Report,
    memory::Need, model::check_ids, output::Output, plan::Plan, resume::Fingerprint, run::Run,
    source, weights::Loader,
};

/// Quantizes a checkpoint into the folder `out`, which gets its name only when it is whole.
///
/// Every finished block is brought to disk in `{out}.partial`. If the process ends before the last,
/// however it ends, the same call goes on from there, and the result has the same bytes.
///
/// `samples` are calibration tokens, one list per sample, all of one length; empty for
/// [`Method::Rtn`]. Memory: one block of weights and the activations of all samples, in f32; GPTAQ
/// holds the activations of the original model as well.
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
    run(checkpoint, None, samples, backend, options, out, progress)
}

/// As [`quantize`], but most linears are taken over from an earlier result of the same model: only
/// those that `kept` does not keep are solved again, from what the earlier result's layers make of
/// the samples. Cost: samples go through all blocks once.
///
/// # Errors
/// As [`quantize`]; [`Error::Packed`] if `options` store a kept layer otherwise than it is.
pub fn requantize<B: PackedBackend>(
    checkpoint: &Checkpoint,
    kept: &Kept<'_>,
    samples: &[Vec<u32>],
    backend: &B,
    options: &QuantizeOptions,
    out: &Path,
    progress: &mut dyn Progress,
) -> Result<Report, Error> {
    run(checkpoint, Some(kept), samples, backend, options, out, progress)
}

fn run<B: PackedBackend>(
    checkpoint: &Checkpoint,
    kept: Option<&Kept<'_>>,
    samples: &[Vec<u32>],
    backend: &B,
    options: &QuantizeOptions,
    out: &Path,
    progress: &mut dyn Progress,
) -> Result<Report, Error> {
    let arch = match Architecture::of(checkpoint) {
        // Rounding needs no graph.
        Err(Error::UnknownArchitecture { .. }) if options.method == Method::Rtn => None,
        found => Some(found?),
    };
    let head = arch.as_ref().map_or("lm_head", |arch| &arch.head().name);
    let options = &options.with_head_rule(head)?;
    options.validate()?;
    let mut plan = match &arch {
        Some(arch) => Plan::new(checkpoint, arch, options)?,
        None => Plan::by_names(checkpoint, options)?,
    };
    kept.map_or(Ok(()), |kept| plan.keep(kept))?;
    if options.method == Method::Gptq
        && let Some(arch) = &arch
    {
        check_samples(samples, arch)?;
    }
    for notice in &plan.notices {
        progress.notice(notice);
    }
    let pass = match (options.method, &arch) {
        (Method::Gptq, Some(arch)) => {
            let loader = Loader { checkpoint, arch, quantization: None, backend };
            Some(Run::new(loader, &plan, options, kept, samples)?)
        }
        _ => {
            let limit = options.max_ram.map(|limit| Need::of_rounding(&plan).leaves(limit));
            limit.transpose()?;
            None
        }
    };
    let run = Fingerprint::of(checkpoint, samples, options, kept)?;
    let mut output = Output::create(out, checkpoint, run, &plan, options)?;
    if let Some(notice) = output.steps.notice() {
        progress.notice(&notice);
    }
    let layers = match &pass {
        Some(pass) => pass.quantize(&mut output, progress),
        None => rtn(checkpoint, &plan, kept, &mut output, progress),
    };
    drop(pass);
    let remains = output.steps.remains(plan.by_step().count());
    let finished = layers.and_then(|layers| output.finish(checkpoint, plan, layers, options));
    finished.map_err(|source| remains.after(source))
}

/// Round to nearest knows no inputs, so there is nothing to propagate.
fn rtn(
    checkpoint: &Checkpoint,
    plan: &Plan,
    kept: Option<&Kept<'_>>,
    output: &mut Output<'_>,
    progress: &mut dyn Progress,
) -> Result<Vec<LayerReport>, Error> {
    let all = plan.linears().count().max(1);
    let (mut done, mut reports) = (0, Vec::new());
    for (step, linears) in plan.by_step().enumerate() {
        if let Some(earlier) = output.steps.earlier_blocks().get(step) {
            done += linears.len();
            reports.extend(earlier.layers.clone());
            continue;
        }
        let before = reports.len();
        for linear in linears {
            done += 1;
            let Some(config) = linear.config else { continue };
            let started = Instant::now();
            let (quantized, mut report) = match kept.filter(|_| linear.kept) {
                Some(kept) => kept.layer(&linear.place)?,
                None => {
                    let weight = source::weight(checkpoint, &linear.place)?;
                    let failed = |source| Error::Layer { layer: linear.place.name.clone(), source };
                    let quantized = round_to_nearest(weight.view(), &config).map_err(failed)?;
                    (quantized, LayerReport::unsolved(&linear.place.name, &config))
                }
            };
            output.write_layer(&linear.place, &config, &quantized)?;
            report.seconds = started.elapsed().as_secs_f64();
            progress.layer(&report);
            progress.advance(done as f64 / all as f64, &linear.place.name);
            reports.push(report);
        }
        output.finish_step(&reports[before..])?;
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
        check_ids(sample, 0, arch)?;
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
