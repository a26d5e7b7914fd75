//! The largest losses, and what is expected to help.

use maud::{Markup, html};

use super::{
    advice::{Advice, Help, Unit},
    number,
};
use crate::terminal;

/// Units that are ranked.
pub(super) const RANKED: usize = 10;

/// Units of the rule that takes several together.
const TOGETHER: usize = 3;

pub(super) fn section(advice: &Advice<'_>) -> Markup {
    if advice.units.is_empty() {
        return html! {};
    }
    let shown: f64 = advice.units.iter().take(RANKED).map(|unit| unit.share).sum();
    html! {
        h2 { "The largest losses, and what would help" }
        p.how {
            "Estimates, not measurements: one more bit is expected to divide a loss by about 4, "
            "and groups of m weights instead of n to leave about ln m / ln n of it. Query, key and "
            "value, gate and up, and the experts of a block change together, since servers hold "
            "each of these in one matrix. These " (RANKED.min(advice.units.len())) " of "
            (advice.units.len()) " make up " (number::percent(shown)) " of the total loss."
        }
        div.scroll { table.folds {
            thead { tr {
                th.n { "#" } th { "Linears" } th.n { "Share of total" } th.n { "Of rounding’s" }
                th { "Expected to help, and its " code { "--dynamic" } " rule" }
            } }
            tbody {
                @for (at, unit) in advice.units.iter().take(RANKED).enumerate() { (row(at, unit)) }
            }
        } }
        @if let Some((rules, stays)) = advice.together(TOGETHER) {
            p {
                "The first " (TOGETHER.min(advice.units.len())) " together, expected to leave about "
                strong { (number::percent(stays)) } " of the total loss:"
            }
            pre { code { "--dynamic " (quoted(&rules.to_string())) } }
            p.note {
                "The first rule that matches decides: rules of your own for the same linears belong "
                "behind these."
            }
        }
    }
}

fn row(at: usize, unit: &Unit<'_>) -> Markup {
    let group = match unit.group_size {
        -1 => "whole rows".to_owned(),
        group => format!("groups of {group}"),
    };
    html! {
        tr {
            td.n.rank { (at + 1) }
            td.text {
                code { (unit.name) }
                div.faint { "loss " (number::plain(unit.loss)) " at " (unit.bits) " bits, " (group) }
                @if unit.ratio.is_some_and(|ratio| ratio > 0.9) {
                    div.faint { "Hardly better than rounding: more calibration text may help too." }
                }
            }
            td.n data-label="Share of total" { (number::percent(unit.share)) }
            td.n data-label="Of rounding’s" { (unit.ratio.map_or("–".to_owned(), number::percent)) }
            td.helps {
                @for (at, help) in unit.helps.iter().enumerate() {
                    div { (expected(unit, help)) }
                    @if at == 0 { code.rule { (help.rule.to_string()) } }
                }
                @if unit.helps.len() > 1 {
                    details {
                        summary { "rules of the others" }
                        @for help in unit.helps.iter().skip(1) {
                            code.rule { (help.rule.to_string()) }
                        }
                    }
                }
            }
        }
    }
}

fn expected(unit: &Unit<'_>, help: &Help) -> Markup {
    let cost = help.extra_bytes.map(|bytes| format!(", for {}", terminal::bytes(bytes)));
    html! {
        strong { (help.change) } ": total −" (number::percent(unit.share * (1.0 - help.leaves)))
        (cost.unwrap_or_default())
    }
}

/// A word of a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
