//! Layers one by one: those that stand out, and all.

use gptq_models::{LayerReport, Report};
use maud::{Markup, html};

use super::{head::UNKNOWN, number, place::ratio};

/// Rows before a table says how many more there are.
const NAMED: usize = 200;

/// What is unusual about a layer.
fn oddities(layer: &LayerReport) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(fallback) = &layer.fallback {
        out.push(format!(
            "fell back to {}: {} (mean error {})",
            fallback.strategy,
            fallback.reason,
            number::plain(fallback.mean_abs_error)
        ));
    }
    if let Some(attempts) = layer.damp_attempts.filter(|attempts| *attempts > 1) {
        out.push(format!(
            "damping raised to {} of the mean diagonal in {attempts} attempts",
            layer.damp_percent.map_or(UNKNOWN.into(), number::percent)
        ));
    }
    if let Some(floor) = layer.damp_floor.filter(|floor| *floor > 0) {
        out.push(format!("the diagonal itself raised {floor} times"));
    }
    if layer.dead_columns > 0 {
        let dead = number::of(layer.dead_columns, "input", "inputs");
        out.push(format!("{dead} zero on every token"));
    }
    if let (Some(loss), Some(rtn)) = (layer.loss, layer.rtn_loss)
        && loss > rtn
    {
        out.push("worse than rounding".into());
    }
    out
}

pub(super) fn unusual(report: &Report) -> Markup {
    let mut rows: Vec<(&LayerReport, Vec<String>)> = report
        .layers
        .iter()
        .map(|layer| (layer, oddities(layer)))
        .filter(|(_, odd)| !odd.is_empty())
        .collect();
    // Stable: in the order of the run otherwise.
    rows.sort_by_key(|(layer, _)| layer.fallback.is_none());
    html! {
        section id="unusual" {
            h2 { "Damping, dead inputs, fallbacks" }
            @if rows.is_empty() {
                p { "Nothing unusual: no layer fell back, needed more damping than asked for, had inputs "
                    "that are always zero, or lost more than rounding." }
            } @else {
                div.scroll { table {
                    thead { tr { th { "Layer" } th.n { "Tokens" } th { "What" } } }
                    tbody {
                        @for (layer, odd) in rows.iter().take(NAMED) {
                            tr {
                                td.bad[layer.fallback.is_some()] { code { (layer.name) } }
                                td.n { (number::count(layer.tokens)) }
                                td.text { @for text in odd { div { (text) } } }
                            }
                        }
                    }
                } }
                @if rows.len() > NAMED {
                    p.note { "And " (rows.len() - NAMED) " more, in the report itself." }
                }
            }
        }
    }
}

pub(super) fn all(report: &Report) -> Markup {
    let figure = |x: Option<f64>| x.map_or("–".to_owned(), number::plain);
    let exact = |x: Option<f64>| x.map(|x| x.to_string());
    html! {
        section id="layers" {
            h2 { "All layers" }
            details {
                summary { (number::of(report.layers.len(), "layer", "layers")) ", in the order of the run" }
                div.scroll { table {
                    thead { tr {
                        th { "Layer" } th.n { "Bits" } th.n { "Group" } th.n { "Loss" }
                        th.n { "Rounding’s" } th.n { "Ratio" } th.n { "Damping" } th.n { "Tokens" }
                        th.n { "Seconds" }
                    } }
                    tbody {
                        @for layer in &report.layers {
                            @let left = layer.loss.zip(layer.rtn_loss).and_then(|(l, r)| ratio(l, r));
                            tr {
                                td { code { (layer.name) } }
                                td.n { (layer.bits) }
                                td.n { (layer.group_size) }
                                td.n title=[exact(layer.loss)] { (figure(layer.loss)) }
                                td.n title=[exact(layer.rtn_loss)] { (figure(layer.rtn_loss)) }
                                td.n { (left.map_or("–".to_owned(), number::percent)) }
                                td.n { (figure(layer.damp_percent)) }
                                td.n { (number::count(layer.tokens)) }
                                td.n { (number::plain(layer.seconds)) }
                            }
                        }
                    }
                } }
            }
        }
    }
}
