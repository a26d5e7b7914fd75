//! `gptq quantize`.

use std::path::Path;

use gptq_calib::{CalibrationSet, ChatTemplate, SampleSpec};
use gptq_kernels::CpuBackend;
use gptq_models::{Checkpoint, Method, QuantizeOptions, Report, Staging, quantize};
use gptq_pack::{DynamicRules, ZeroPointFormat};
use serde_json::{Value, json};

use crate::{
    args::{FormatArg, MethodArg, QuantizeArgs},
    failure::Failure,
    model_dir, settings,
    terminal::{self, Meter},
};

pub(crate) fn run(args: &QuantizeArgs, json: bool) -> Result<(), Failure> {
    let mut options = options(args)?;
    if options.method == Method::Gptq && args.calib.is_empty() {
        return Err(Failure::usage(
            "GPTQ needs text to calibrate on: --calib FILE (.txt or .jsonl); --method rtn needs \
             none, at a price in accuracy",
        ));
    }
    // Before minutes go into tokenizing.
    Staging::check(&args.out)?;
    let checkpoint = Checkpoint::open(&args.model)?;
    let samples = match options.method {
        Method::Rtn => Vec::new(),
        Method::Gptq => {
            let set = calibration(args, &checkpoint)?;
            options.calibration = serde_json::to_value(&set.provenance)
                .map_err(|e| Failure::failed(format!("calibration record: {e}")))?;
            set.samples
        }
    };
    let mut meter = Meter::new("quantize");
    let backend = CpuBackend::new();
    let report = quantize(&checkpoint, &samples, &backend, &options, &args.out, &mut meter)?;
    meter.finish();
    if json {
        terminal::json(&summary_json(&report, &args.out))?;
    } else {
        terminal::print(&summary(&report, &args.out));
    }
    Ok(())
}

fn options(args: &QuantizeArgs) -> Result<QuantizeOptions, Failure> {
    let config = settings::quant_config(&args.settings)?;
    let zero_format = match args.format {
        Some(FormatArg::Gptq) => ZeroPointFormat::Gptq,
        Some(FormatArg::GptqV2) => ZeroPointFormat::GptqV2,
        None if config.sym => ZeroPointFormat::Gptq,
        // Readers of v1 disagree on zero points of 0, which asymmetric layers have.
        None => ZeroPointFormat::GptqV2,
    };
    if !(args.max_shard_size > 0.0 && args.max_shard_size.is_finite()) {
        return Err(Failure::usage("--max-shard-size must be above 0"));
    }
    Ok(QuantizeOptions {
        method: match args.method {
            MethodArg::Gptq => Method::Gptq,
            MethodArg::Rtn => Method::Rtn,
        },
        config,
        zero_format,
        dynamic: args.dynamic.as_deref().map(dynamic).transpose()?.unwrap_or_default(),
        max_shard_bytes: (args.max_shard_size * 1e9) as u64,
        ..QuantizeOptions::default()
    })
}

/// Rules given as JSON, or as the name of a file that holds them.
fn dynamic(text: &str) -> Result<DynamicRules, Failure> {
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

fn calibration(args: &QuantizeArgs, checkpoint: &Checkpoint) -> Result<CalibrationSet, Failure> {
    let tokenizer = model_dir::tokenizer(&args.model)?;
    // Only conversations need a template, and their reader says so if there is none.
    let template = ChatTemplate::from_model_dir(&args.model).ok();
    let spec = SampleSpec {
        n_samples: args.nsamples,
        seq_len: model_dir::seqlen(args.seqlen, checkpoint)?,
        seed: args.seed,
    };
    let files: Vec<&Path> = args.calib.iter().map(|p| p.as_path()).collect();
    let set = CalibrationSet::from_files(&files, &tokenizer, template.as_ref(), &spec)?;
    let p = &set.provenance;
    terminal::message(&format!(
        "calibration: {} samples of {} tokens, covering {} of the text's {} tokens",
        p.n_samples, p.seq_len, p.covered_tokens, p.text_tokens
    ));
    Ok(set)
}

/// Losses summed over all layers.
fn losses(report: &Report) -> Option<(f64, f64)> {
    let loss = report.layers.iter().map(|l| l.loss).sum::<Option<f64>>()?;
    let rtn = report.layers.iter().map(|l| l.rtn_loss).sum::<Option<f64>>()?;
    Some((loss, rtn))
}

fn summary_json(report: &Report, out: &Path) -> Value {
    let losses = losses(report);
    json!({
        "out": out.display().to_string(),
        "report": out.join("gptq_report.json").display().to_string(),
        "layers": report.layers.len(),
        "coverage": report.coverage,
        "loss": losses.map(|l| l.0),
        "rtn_loss": losses.map(|l| l.1),
        "source_bytes": report.source_bytes,
        "output_bytes": report.output_bytes,
        "notices": report.notices,
        "seconds": report.seconds,
    })
}

fn summary(report: &Report, out: &Path) -> String {
    let c = report.coverage;
    let mut text = format!(
        "{}: {} layers quantized, {} of {} parameters ({} skipped by rule)\n",
        out.display(),
        report.layers.len(),
        c.quantized,
        c.expected,
        c.skipped
    );
    if let Some((loss, rtn)) = losses(report) {
        text += &format!("layer loss {loss:.4e}, {:.1}% of rounding's\n", 100.0 * loss / rtn);
    }
    text += &format!(
        "{} -> {} in {:.1} s; details in {}\n",
        terminal::bytes(report.source_bytes),
        terminal::bytes(report.output_bytes),
        report.seconds,
        out.join("gptq_report.json").display()
    );
    text
}
