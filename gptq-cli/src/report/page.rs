//! The page around the sections.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{
    advice::Advice, bytes, calibration, costs, experts, hashes, head, layers, losses, place::Grid,
    source::Source, worst,
};

/// No scripts and no address in it.
const STYLE: &str = include_str!("page.css");

/// Closed as XML closes them, so that any XML reader reads the page too; `super::MARK` is the start of
/// the first.
const METAS: &str = "<meta charset=\"utf-8\" />\
    <meta name=\"generator\" content=\"gptq report\" />\
    <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\" />\
    <meta name=\"color-scheme\" content=\"light dark\" />";

/// The whole page.
pub(super) fn render(source: &Source, advice: &Advice<'_>) -> String {
    let report = &source.report;
    let grid = Grid::new(&report.layers);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                (PreEscaped(METAS))
                title { (source.name) " – gptq report" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    (head::header(source, advice))
                    (contents(source, advice))
                    (losses::section(&grid))
                    (worst::section(advice))
                    (layers::unusual(report))
                    (bytes::section(source, &grid))
                    (experts::section(&report.layers))
                    (calibration::section(source))
                    (costs::section(report, &grid))
                    (calibration::others(source))
                    (layers::all(report))
                    (hashes::section(report))
                }
                footer {
                    "Made by " code { "gptq report" } " from " code { "gptq_report.json" }
                    ", and sizes from the headers of the tensors beside it."
                }
            }
        }
    };
    page.into_string()
}

fn contents(source: &Source, advice: &Advice<'_>) -> Markup {
    let experts = source.report.layers.iter().any(|layer| layer.routed_tokens.is_some());
    let links = [
        ("losses", "Losses", true),
        ("depth", "By depth", advice.total.is_some()),
        ("worst", "What would help", !advice.units.is_empty()),
        ("unusual", "Fallbacks", true),
        ("bytes", "Bytes", true),
        ("experts", "Experts", experts),
        ("calibration", "Calibration", true),
        ("costs", "Time and memory", true),
        ("layers", "All layers", true),
        ("hashes", "Hashes", true),
    ];
    html! {
        nav aria-label="Contents" {
            @for (id, name, _) in links.iter().filter(|link| link.2) {
                a href=(format!("#{id}")) { (name) }
            }
        }
    }
}
