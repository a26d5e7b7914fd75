//! What `gptq quantize` says when it is done.

use std::path::Path;

use gptq_calib::Provenance;
use gptq_models::{Evaluation, Report};
use serde_json::{Value, json};

use crate::{
    failure::Failure,
    policy,
    report::advice::{Advice, Shapes, Unit},
    terminal,
};

/// Losses summed over all layers that were solved, if any were.
fn losses(report: &Report) -> Option<(f64, f64)> {
    let pairs = report.layers.iter().filter_map(|l| Some((l.loss?, l.rtn_loss?)));
    pairs.reduce(|sum, pair| (sum.0 + pair.0, sum.1 + pair.1))
}

/// How the calibration set of a result was drawn.
pub(crate) fn calibration(report: &Report, dir: &Path) -> Result<Provenance, Failure> {
    serde_json::from_value(report.calibration.clone()).map_err(|e| {
        Failure::failed(format!(
            "{}: the report does not say what it was calibrated on: {e}",
            dir.display()
        ))
    })
}

/// Linears named one by one before a summary says how many more there are.
const NAMED: usize = 10;

/// Largest losses that a summary names.
const WORST: usize = 3;

/// Whether the run kept to `--max-fallback`.
pub(crate) fn check_fallbacks(report: &Report, max: usize, out: &Path) -> Result<(), Failure> {
    let count = report.fallbacks().count();
    if count <= max {
        return Ok(());
    }
    let mut lines: Vec<String> =
        report.fallbacks().map(|(name, f)| format!("\n  {name}: {}", f.reason)).collect();
    if lines.len() > NAMED {
        lines.truncate(NAMED);
        lines.push(format!("\n  and {} more, all in gptq_report.json", count - NAMED));
    }
    Err(Failure::policy(format!(
        "{count} linears could not be solved and fell back, {max} may (--max-fallback): the result \
         is in {}, but check it before use. Calibrate with more or more varied text (--calib, \
         --nsamples, --seqlen), try a larger --damp-percent, or allow it with --max-fallback \
         {count}.{}",
        out.display(),
        lines.concat()
    )))
}

pub(crate) fn to_json(report: &Report, out: &Path, quality: Option<&Evaluation>) -> Value {
    let losses = losses(report);
    let fallbacks: Vec<Value> = report
        .fallbacks()
        .map(|(name, f)| json!({"name": name, "strategy": f.strategy, "reason": f.reason}))
        .collect();
    json!({
        "out": out.display().to_string(),
        "report": out.join("gptq_report.json").display().to_string(),
        "layers": report.layers.len(),
        "coverage": report.coverage,
        "loss": losses.map(|l| l.0),
        "rtn_loss": losses.map(|l| l.1),
        "fallback": fallbacks,
        "experts": experts(report).map(|(linears, fewest, median)| {
            json!({"linears": linears, "fewest_tokens": fewest, "median_tokens": median})
        }),
        "adapter": report.adapter,
        "source_bytes": report.source_bytes,
        "output_bytes": report.output_bytes,
        "notices": report.notices,
        "seconds": report.seconds,
        "computed": report.computed,
        "memory": report.memory,
        "interruptions": report.interruptions,
        "quality": quality,
    })
}

/// Linears of experts, and the fewest and the median of the tokens that were sent to one.
fn experts(report: &Report) -> Option<(usize, u64, u64)> {
    let mut sent: Vec<u64> = report.layers.iter().filter_map(|l| l.routed_tokens).collect();
    sent.sort_unstable();
    Some((sent.len(), *sent.first()?, sent[sent.len() / 2]))
}

/// A line about one of the largest losses.
fn largest(unit: &Unit<'_>) -> String {
    let help = unit.helps.first().map_or(String::new(), |help| {
        format!(
            "; {} would take {:.1}% off it",
            help.change,
            100.0 * unit.share * (1.0 - help.leaves)
        )
    });
    format!("  {}  {:.1}% of the total{help}\n", unit.name, 100.0 * unit.share)
}

pub(crate) fn to_text(report: &Report, out: &Path, quality: Option<&Evaluation>) -> String {
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
    if let Some((count, fewest, median)) = experts(report) {
        text += &format!(
            "{count} linears of experts; the router sent them {median} tokens in the median, {fewest} \
             at least\n"
        );
    }
    let advice = Advice::new(report, &Shapes::new());
    if advice.units.len() > WORST {
        text += "largest losses, and what is expected to help (gptq report has rules for it):\n";
        text.extend(advice.units.iter().take(WORST).map(largest));
    }
    let fallbacks: Vec<&str> = report.fallbacks().map(|(name, _)| name).collect();
    if !fallbacks.is_empty() {
        let more = if fallbacks.len() > NAMED { ", ..." } else { "" };
        let named = fallbacks[..fallbacks.len().min(NAMED)].join(", ");
        text += &format!("{} fell back: {named}{more}\n", fallbacks.len());
    }
    if let Some(adapter) = &report.adapter {
        text += &format!(
            "adapter of rank {} for {} linears, {}, in {}\n",
            adapter.rank,
            adapter.modules,
            terminal::bytes(adapter.bytes),
            adapter.path
        );
    }
    text += &quality.map_or(String::new(), policy::to_text);
    let peak = report.memory.peak_bytes;
    let peak =
        peak.map_or(String::new(), |peak| format!(" with {} of memory", terminal::bytes(peak)));
    text += &format!(
        "{} -> {} in {:.1} s{peak}; details in {}\n",
        terminal::bytes(report.source_bytes),
        terminal::bytes(report.output_bytes),
        report.seconds,
        out.join("gptq_report.json").display()
    );
    text
}
