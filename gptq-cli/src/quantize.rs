//! `gptq quantize`.

use std::time::Duration;

use clap::Args;
use gptq_calib::{CalibrationSet, Diagnosis};
use gptq_core::{Backend, FallbackStrategy};
use gptq_kernels::{CpuBackend, Precision};
use gptq_models::{
    Checkpoint, EoraOptions, FallbackPolicy, Method, QuantizeOptions, Routing, Staging, quantize,
};
use gptq_pack::{DynamicRules, Format};
use serde_json::Value;

use crate::{
    args::{FallbackArg, MethodArg, MoeArg, OutFormatArg, PassPrecisionArg, QuantizeArgs, RunArgs},
    check,
    device::Named,
    doctor,
    failure::Failure,
    model_dir, plan, policy, settings, summary,
    terminal::{self, Meter},
};

/// What becomes of an interrupted run.
#[derive(Args, Debug)]
pub(crate) struct ResumeArgs {
    /// Throw away what an interrupted run of the same output left, instead of going on from it
    #[arg(long)]
    pub(crate) restart: bool,
    /// Save the samples on their way every so many seconds: less is computed again after an
    /// interruption, more is written
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) save_every: u64,
}

impl ResumeArgs {
    pub(crate) fn set(&self, options: &mut QuantizeOptions) {
        options.restart = self.restart;
        options.save_every = Duration::from_secs(self.save_every);
    }
}

pub(crate) fn run(args: &QuantizeArgs, json: bool) -> Result<(), Failure> {
    let run = &args.run;
    let mut options = options(run)?;
    args.resume.set(&mut options);
    if options.method == Method::Gptq && run.calib.is_empty() {
        return Err(Failure::usage(
            "GPTQ needs text to calibrate on: --calib FILE (.txt or .jsonl); --method rtn needs \
             none, at a price in accuracy",
        ));
    }
    // Before minutes go into tokenizing.
    Staging::check(&args.out)?;
    run.eora_out.as_deref().map(Staging::check).transpose()?;
    let checkpoint = Checkpoint::open(&args.model)?;
    check::before(&checkpoint, &options, &args.targets)?;
    let samples = match options.method {
        Method::Rtn => Vec::new(),
        Method::Gptq => {
            plan::text_bytes(&run.calib, options.max_ram)?;
            let (set, found) = calibration(args, &checkpoint)?;
            options.calibration = doctor::judge(&set, &found, &args.accept)?;
            set.samples
        }
    };
    let mut meter = Meter::new("quantize");
    let backend = backend(run.precision);
    options.computed = backend.describe();
    // What tokenizing took.
    backend.return_memory();
    let report = quantize(&checkpoint, &samples, &backend, &options, &args.out, &mut meter)?;
    meter.finish();
    let quality = policy::compare(&args.model, &args.out, &args.policy, run.samples.seqlen)?;
    if json {
        terminal::json(&summary::to_json(&report, &args.out, quality.as_ref()))?;
    } else {
        terminal::print(&summary::to_text(&report, &args.out, quality.as_ref()));
    }
    summary::check_fallbacks(&report, args.max_fallback, &args.out)?;
    quality.map_or(Ok(()), |found| policy::check(&found, &args.policy, &report, &args.out))?;
    check::after(&args.out, &args.targets)
}

/// What sends samples through the model.
pub(crate) fn backend(precision: Option<PassPrecisionArg>) -> CpuBackend {
    CpuBackend::new().with_precision(match precision {
        Some(PassPrecisionArg::F32) => Precision::F32,
        Some(PassPrecisionArg::Bf16) | None => Precision::Bf16,
    })
}

pub(crate) fn options(args: &RunArgs) -> Result<QuantizeOptions, Failure> {
    let config = settings::quant_config(&args.settings)?;
    let options = QuantizeOptions {
        method: match args.method {
            MethodArg::Gptq => Method::Gptq,
            MethodArg::Rtn => Method::Rtn,
        },
        format: format(args.format, config.sym),
        config,
        dynamic: args.dynamic.as_deref().map(dynamic).transpose()?.unwrap_or_default(),
        max_shard_bytes: model_dir::gigabytes("--max-shard-size", args.max_shard_size)?,
        max_ram: args.max_ram.map(|gb| model_dir::gigabytes("--max-ram", gb)).transpose()?,
        true_sequential: !args.no_true_sequential,
        lm_head: args.lm_head,
        fallback: fallback(args),
        routing: match args.moe {
            MoeArg::Routed => Routing::Routed,
            MoeArg::All => Routing::All,
        },
        eora: args.eora_rank.map(|rank| EoraOptions { rank, out: args.eora_out.clone() }),
        ..QuantizeOptions::default()
    };
    if options.method == Method::Rtn && options.eora.is_some() {
        return Err(Failure::usage(
            "--eora-rank fits an adapter to inputs, and --method rtn sees none; use gptq",
        ));
    }
    Ok(options)
}

/// The format asked for, or the one that fits the grid.
pub(crate) fn format(asked: Option<OutFormatArg>, sym: bool) -> Format {
    match asked {
        Some(OutFormatArg::Gptq) => Format::Gptq,
        Some(OutFormatArg::GptqV2) => Format::GptqV2,
        Some(OutFormatArg::Marlin) => Format::Marlin,
        Some(OutFormatArg::Awq) => Format::Awq,
        Some(OutFormatArg::CompressedTensors) => Format::CompressedTensors,
        None if sym => Format::Gptq,
        // Readers of v1 disagree on zero points of 0, which asymmetric layers have.
        None => Format::GptqV2,
    }
}

fn fallback(args: &RunArgs) -> Option<FallbackPolicy> {
    let strategy = match args.fallback {
        FallbackArg::Rtn => FallbackStrategy::Rtn,
        FallbackArg::Midpoint => FallbackStrategy::Midpoint,
        FallbackArg::Mean => FallbackStrategy::Mean,
        FallbackArg::Median => FallbackStrategy::Median,
        FallbackArg::Stdclip => FallbackStrategy::StdClip,
        FallbackArg::None => return None,
    };
    Some(FallbackPolicy { strategy, threshold: args.fallback_threshold })
}

/// Rules given as JSON, or as the name of a file that holds them.
pub(crate) fn dynamic(text: &str) -> Result<DynamicRules, Failure> {
    let inline = text.trim_start().starts_with('{');
    let (name, text) = if inline {
        ("--dynamic".to_owned(), text.to_owned())
    } else {
        let read = std::fs::read_to_string(text);
        (text.to_owned(), read.map_err(|e| Failure::failed(format!("cannot read {text}: {e}")))?)
    };
    let json: Value = serde_json::from_str(&text)
        .map_err(|e| Failure::failed(format!("{name} is not JSON: {e}")))?;
    DynamicRules::from_json(&json).map_err(|e| Failure::failed(format!("{name}: {e}")))
}

fn calibration(
    args: &QuantizeArgs,
    checkpoint: &Checkpoint,
) -> Result<(CalibrationSet, Diagnosis), Failure> {
    let spec = args.run.samples.spec(checkpoint)?;
    let (set, found) = doctor::draw(&args.model, checkpoint, &args.run.calib, &spec)?;
    let p = &set.provenance;
    terminal::message(&format!(
        "calibration: {} samples of {} tokens, covering {} of the text's {} tokens",
        p.n_samples, p.seq_len, p.covered_tokens, p.text_tokens
    ));
    Ok((set, found))
}
