//! The pipeline: from a checkpoint and tokens to a folder of packed layers.
//!
//! For each stage of each block: accumulate one Hessian from the input that its linears share,
//! factor it once, quantize the linears, and move every sample on with the *quantized* weights. So
//! later stages see the errors of earlier ones, at the cost of a single forward pass.

use std::{path::Path, time::Instant};

use gptq_core::round_to_nearest;
use gptq_pack::PackedBackend;

use crate::{
    Architecture, Checkpoint, Error, LayerReport, Method, Progress, QuantizeOptions, Report,
    model::check_ids,
    output::Output,
    plan::{LinearPlan, Plan},
    run::Run,
    source,
    weights::Loader,
};

/// Quantizes a checkpoint into the folder `out`, which gets its name only when it is whole.
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
    let started = Instant::now();
    let arch = match Architecture::of(checkpoint) {
        // Rounding needs no graph.
        Err(Error::UnknownArchitecture { .. }) if options.method == Method::Rtn => None,
        found => Some(found?),
    };
    let head = arch.as_ref().map_or("lm_head", |arch| &arch.head().name);
    let options = &options.with_head_rule(head)?;
    options.validate()?;
    let plan = match &arch {
        Some(arch) => Plan::new(checkpoint, arch, options)?,
        None => Plan::by_names(checkpoint, options)?,
    };
    if options.method == Method::Gptq
        && let Some(arch) = &arch
    {
        check_samples(samples, arch)?;
    }
    for notice in &plan.notices {
        progress.notice(notice);
    }
    let mut output = Output::create(out, checkpoint, &plan, options)?;
    let layers = match (options.method, &arch) {
        (Method::Gptq, Some(arch)) => {
            let loader = Loader { checkpoint, arch, quantization: None, backend };
            Run::new(loader, &plan, options, samples)?.quantize(&mut output, progress)?
        }
        _ => rtn(checkpoint, &plan, &mut output, progress)?,
    };
    output.finish(checkpoint, plan, layers, options, started)
}

/// Round to nearest knows no inputs, so there is nothing to propagate.
fn rtn(
    checkpoint: &Checkpoint,
    plan: &Plan,
    output: &mut Output<'_>,
    progress: &mut dyn Progress,
) -> Result<Vec<LayerReport>, Error> {
    let all: Vec<&LinearPlan> = plan.linears().collect();
    let mut reports = Vec::new();
    for (done, linear) in all.iter().enumerate() {
        let Some(config) = linear.config else { continue };
        let started = Instant::now();
        let weight = source::weight(checkpoint, &linear.place)?;
        let failed = |source| Error::Layer { layer: linear.place.name.clone(), source };
        let quantized = round_to_nearest(weight.view(), &config).map_err(failed)?;
        output.write_layer(&linear.place, &config, &quantized)?;
        let seconds = started.elapsed().as_secs_f64();
        let report = LayerReport { seconds, ..LayerReport::unsolved(&linear.place.name, &config) };
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
