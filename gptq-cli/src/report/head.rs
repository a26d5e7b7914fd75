//! What the run was and what came of it, at a glance.

use maud::{Markup, html};
use serde_json::Value;

use super::{advice::Advice, number, place::ratio, source::Source};
use crate::terminal;

/// Where a report says nothing.
pub(super) const UNKNOWN: &str = "not recorded";

pub(super) fn header(source: &Source, advice: &Advice<'_>) -> Markup {
    let report = &source.report;
    let fallbacks = report.fallbacks().count();
    html! {
        header {
            p.tool { (if report.tool.is_empty() { "gptq" } else { &report.tool }) " · report of a run" }
            h1 { (source.name) }
            p.settings { (settings(&report.settings)) }
            @if fallbacks > 0 {
                p.alarm role="note" {
                    strong { (number::of(fallbacks, "linear", "linears")) " could not be solved" }
                    " and fell back to a method that knows no inputs: "
                    a href="#unusual" { "which, and why" } "."
                }
            }
            div.facts { @for fact in facts(source, advice) { (fact) } }
            @if !report.notices.is_empty() {
                h2 { "What to know before serving it" }
                ul.notices { @for notice in &report.notices { li { (notice) } } }
            }
        }
    }
}

fn fact(name: &str, value: &str, below: &str) -> Markup {
    let class = if value == UNKNOWN { "value unknown" } else { "value" };
    html! {
        div.fact {
            span.name { (name) }
            span class=(class) { (value) }
            span.below { (below) }
        }
    }
}

fn facts(source: &Source, advice: &Advice<'_>) -> Vec<Markup> {
    let report = &source.report;
    let known = |value: Option<String>| value.unwrap_or_else(|| UNKNOWN.to_owned());
    let loss = advice.total.and_then(|t| Some((t, ratio(t.loss, t.rtn)?)));
    let losses = loss.map_or(String::new(), |(t, _)| {
        format!("{} against {}, summed over layers", number::plain(t.loss), number::plain(t.rtn))
    });
    let (from, to) = (report.source_bytes, report.output_bytes);
    let sizes = (from > 0 && to > 0).then(|| format!("{:.2}×", from as f64 / to as f64));
    let sizes_below = match (from, to) {
        (0, _) | (_, 0) => String::new(),
        _ => format!("{} → {}", terminal::bytes(from), terminal::bytes(to)),
    };
    let packed = source.sizes.as_ref().ok().and_then(|sizes| sizes.bits_per_weight);
    let average = source.sizes.as_ref().ok().and_then(|sizes| {
        let packed: f64 =
            sizes.layers.iter().map(|l| l.in_features as f64 * l.out_features as f64).sum();
        let dense: u64 = sizes.dense.values().map(|share| share.elements).sum();
        let all = packed + dense as f64;
        (all > 0.0).then(|| format!("{:.2}", 8.0 * sizes.bytes as f64 / all))
    });
    let packed = packed.map_or(String::new(), |bits| {
        format!("on average; {bits:.2} in packed layers, scales and zero points included")
    });
    let c = report.coverage;
    let covered = (c.expected > 0).then(|| number::percent(c.quantized as f64 / c.expected as f64));
    let covered_below = match c.expected {
        0 => String::new(),
        _ => format!(
            "{} of {} weights of linears; {} skipped by rule",
            number::count(c.quantized),
            number::count(c.expected),
            number::count(c.skipped)
        ),
    };
    let seconds = (report.seconds > 0.0).then(|| number::duration(report.seconds));
    let peak = report.memory.peak_bytes.map(terminal::bytes);
    let mut layers = number::of(report.layers.len(), "layer", "layers");
    if report.interruptions > 0 {
        let times = number::of(report.interruptions as usize, "interruption", "interruptions");
        layers += &format!(", gone on with after {times}");
    }
    if let Some(rule) = report.kept.as_ref().and_then(|kept| kept["redone"].as_str()) {
        layers += &format!("; only {rule} done again, the others are an earlier result's");
    }
    vec![
        fact("Loss, rounding = 100%", &known(loss.map(|(_, r)| number::percent(r))), &losses),
        fact("Smaller", &known(sizes), &sizes_below),
        fact("Bits per weight", &known(average), &packed),
        fact("Quantized", &known(covered), &covered_below),
        fact("Time", &known(seconds), &layers),
        fact("Peak memory", &known(peak), &report.computed),
    ]
}

/// The settings as a sentence.
fn settings(settings: &Value) -> String {
    let config = &settings["quantization_config"];
    let (meta, text) = (&config["meta"], |value: &Value| value.as_str().map(str::to_owned));
    let mut parts = Vec::new();
    if let Some(method) = text(&settings["method"]) {
        parts.push(match method.as_str() {
            "gptq" => "GPTQ".to_owned(),
            "rtn" => "round to nearest".to_owned(),
            _ => method,
        });
    }
    if let Some(bits) = config["bits"].as_u64() {
        parts.push(format!("{bits} bits"));
    }
    match config["group_size"].as_i64() {
        Some(-1) => parts.push("whole rows share a scale".into()),
        Some(group) => parts.push(format!("groups of {group}")),
        None => {}
    }
    let mut choice = |value: &Value, yes: &str, no: &str| match value.as_bool() {
        Some(true) if !yes.is_empty() => parts.push(yes.into()),
        Some(false) if !no.is_empty() => parts.push(no.into()),
        _ => {}
    };
    choice(&config["sym"], "symmetric", "asymmetric");
    choice(&config["desc_act"], "activation order (desc_act)", "");
    if settings["method"] != "rtn" {
        choice(&meta["act_group_aware"], "activation order inside groups", "");
    }
    choice(&config["static_groups"], "static groups", "");
    choice(&config["true_sequential"], "", "blocks solved from one pass");
    choice(&config["lm_head"], "output head too", "");
    if let Some(power) = meta["mse"].as_f64().filter(|power| *power > 0.0) {
        parts.push(format!("range search to the power {power}"));
    }
    for (key, name) in [("gptaq", "GPTAQ"), ("foem", "FOEM")] {
        if meta[key].is_object() {
            parts.push(name.into());
        }
    }
    if let Some(rules) = config["dynamic"].as_object().filter(|rules| !rules.is_empty()) {
        parts.push(number::of(rules.len(), "rule for single layers", "rules for single layers"));
    }
    if let Some(format) = text(&settings["format"]) {
        parts.push(format!("stored as {format}"));
    }
    match parts.is_empty() {
        true => format!("Settings: {UNKNOWN}"),
        false => parts.join(" · "),
    }
}
