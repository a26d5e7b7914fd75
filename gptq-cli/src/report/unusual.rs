//! Layers that stand out: fallbacks, more damping than asked for, inputs that are always zero.

use gptq_models::{LayerReport, Report};
use maud::{Markup, html};

use super::{head::UNKNOWN, number};

/// Rows that are there at once, and rows that there are at all.
const SHOWN: usize = 12;
const MOST: usize = 500;

/// Neighbours of which the same can be said.
struct Row<'a> {
    prefix: &'a str,
    /// Last parts of the names.
    parts: Vec<&'a str>,
    first: &'a LayerReport,
    what: Vec<String>,
    /// Mean of `|W − Q|` of those that fell back.
    errors: Vec<String>,
}

pub(super) fn section(report: &Report) -> Markup {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for layer in &report.layers {
        let what = oddities(layer);
        if what.is_empty() {
            continue;
        }
        let (prefix, part) = layer.name.rsplit_once('.').unwrap_or(("", &layer.name));
        let error = layer.fallback.as_ref().map(|f| number::plain(f.mean_abs_error));
        match rows.last_mut() {
            Some(row) if row.prefix == prefix && row.what == what => {
                row.parts.push(part);
                row.errors.extend(error);
            }
            _ => {
                let errors = error.into_iter().collect();
                rows.push(Row { prefix, parts: vec![part], first: layer, what, errors });
            }
        }
    }
    // Stable: in the order of the run otherwise.
    rows.sort_by_key(|row| row.first.fallback.is_none());
    let (shown, hidden) = rows.split_at(rows.len().min(SHOWN));
    let hidden = &hidden[..hidden.len().min(MOST)];
    html! {
        h2 { "Damping, dead inputs, fallbacks" }
        @if rows.is_empty() {
            p { "Nothing unusual: no layer fell back, needed more damping than asked for, had inputs "
                "that are always zero, or lost more than rounding." }
        } @else {
            (table(shown))
        }
        @if !hidden.is_empty() {
            details {
                summary { (hidden.len()) " more" }
                (table(hidden))
            }
        }
        @if rows.len() > SHOWN + MOST {
            p.note { "And " (rows.len() - SHOWN - MOST) " more, in the report itself." }
        }
    }
}

/// What is unusual about a layer.
fn oddities(layer: &LayerReport) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(fallback) = &layer.fallback {
        out.push(format!("fell back to {}: {}", fallback.strategy, fallback.reason));
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

fn table(rows: &[Row<'_>]) -> Markup {
    let dot = |row: &Row<'_>| if row.prefix.is_empty() { "" } else { "." };
    html! {
        div.scroll { table.folds {
            thead { tr {
                th { "Layers" } th.n { "Tokens" } th { "What" } th { "Mean |W − Q|" }
            } }
            tbody {
                @for row in rows {
                    tr {
                        td.text.bad[row.first.fallback.is_some()] {
                            code { (row.prefix) (dot(row)) (row.parts.join(", ")) }
                        }
                        td.n data-label="Tokens" { (number::count(row.first.tokens)) }
                        td.text { @for text in &row.what { div { (text) } } }
                        td data-label=[(!row.errors.is_empty()).then_some("Mean |W − Q|")] {
                            (row.errors.join(", "))
                        }
                    }
                }
            }
        } }
    }
}
