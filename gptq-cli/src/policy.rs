//! Whether a result is as good as was asked, on text that it was not calibrated on.

use std::path::{Path, PathBuf};

use clap::Args;
use gptq_calib::Corpus;
use gptq_kernels::CpuBackend;
use gptq_models::{Checkpoint, Evaluation, Report, evaluate};

use crate::{
    args::count,
    eval,
    failure::Failure,
    model_dir,
    report::advice::{Advice, Shapes},
    terminal::Meter,
};

/// What a result must keep to.
#[derive(Args, Debug)]
pub(crate) struct PolicyArgs {
    /// Text to compare the result with its source on: .txt or .jsonl, not the calibration text;
    /// repeatable
    #[arg(long, value_name = "FILE")]
    pub(crate) heldout: Vec<PathBuf>,
    /// Windows of that text, each as long as a sample
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = count(), requires = "heldout")]
    pub(crate) heldout_windows: usize,
    /// Exit with code 3 if the divergence from the source is larger, in nats per token
    #[arg(long, value_name = "X", requires = "heldout")]
    pub(crate) max_kl: Option<f64>,
    /// Exit with code 3 if the perplexity is larger than the source's by more than so many percent
    #[arg(long, value_name = "PERCENT", requires = "heldout", allow_negative_numbers = true)]
    pub(crate) max_ppl_increase: Option<f64>,
}

/// The result beside its source, if text was given to compare them on.
pub(crate) fn compare(
    source: &Path,
    result: &Path,
    args: &PolicyArgs,
    seqlen: Option<usize>,
) -> Result<Option<Evaluation>, Failure> {
    if args.heldout.is_empty() {
        return Ok(None);
    }
    let seqlen = model_dir::seqlen(seqlen, &Checkpoint::open(source)?)?;
    let files: Vec<&Path> = args.heldout.iter().map(|file| file.as_path()).collect();
    let ids = Corpus::from_files(&files, &model_dir::tokenizer(source)?, None)?.ids;
    let mut windows = eval::windows(&ids, seqlen, None)?;
    windows.truncate(args.heldout_windows);
    let load = |dir| model_dir::load(&Checkpoint::open(dir)?, None, CpuBackend::new());
    let (model, reference) = (load(result)?, load(source)?);
    let mut meter = Meter::new("compare");
    let total = windows.len() as f64;
    let found = evaluate(&model, Some(&reference), &ids, &windows, |done| {
        meter.set(done as f64 / total, &format!("{done} of {total} windows"));
    })?;
    meter.finish();
    Ok(Some(found))
}

/// `perplexity 12.3456, the source's 12.3000 (+0.37%); KL 0.003210, top-1 0.9700 (16 windows)`
pub(crate) fn to_text(found: &Evaluation) -> String {
    let or_zero = |x: Option<f64>| x.unwrap_or_default();
    format!(
        "perplexity {:.4}, the source's {:.4} ({:+.2}%); KL {:.6}, top-1 {:.4} on {} held-out tokens\n",
        found.ppl,
        or_zero(found.ppl_reference),
        increase(found),
        or_zero(found.kl),
        or_zero(found.top1),
        found.tokens
    )
}

/// Of the perplexity, in percent.
fn increase(found: &Evaluation) -> f64 {
    found.ppl_reference.map_or(0.0, |reference| 100.0 * (found.ppl / reference - 1.0))
}

/// Units of layers that a broken policy names.
const NAMED: usize = 5;

/// Whether the result keeps to what was asked. If not, the layers that lose most are named, with
/// what would help.
pub(crate) fn check(
    found: &Evaluation,
    args: &PolicyArgs,
    report: &Report,
    out: &Path,
) -> Result<(), Failure> {
    let (kl, increase) = (found.kl.unwrap_or_default(), increase(found));
    let mut broken = Vec::new();
    // What is not a number is above everything.
    let above = |found: f64, most: &f64| found.is_nan() || found > *most;
    if let Some(most) = args.max_kl.filter(|most| above(kl, most)) {
        broken.push(format!("KL {kl:.6} is above {most} (--max-kl)"));
    }
    if let Some(most) = args.max_ppl_increase.filter(|most| above(increase, most)) {
        broken.push(format!(
            "perplexity rose by {increase:.2}%, more than {most}% (--max-ppl-increase)"
        ));
    }
    if broken.is_empty() {
        return Ok(());
    }
    let advice = Advice::new(report, &Shapes::new());
    let mut lines = String::new();
    for unit in advice.units.iter().take(NAMED) {
        let help = unit.helps.first().map_or(String::new(), |help| format!("; {}", help.change));
        lines += &format!("\n  {}: {:.1}% of the loss{help}", unit.name, 100.0 * unit.share);
    }
    if let Some((rules, _)) = advice.together(NAMED) {
        lines += &format!("\nTo try all of that: --dynamic '{rules}'");
    }
    Err(Failure::policy(format!(
        "{}; the result is in {}. The layers that lose most:{lines}",
        broken.join(", and "),
        out.display()
    )))
}
