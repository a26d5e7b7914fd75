//! The page around the sections.

use maud::{DOCTYPE, PreEscaped, html};

use super::{
    advice::Advice, bytes, calibration, costs, experts, hashes, head, layers, losses, place::Grid,
    source::Source, unusual, worst,
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
    let sections = [
        ("losses", "Losses", losses::section(&grid)),
        ("depth", "By depth", losses::depth(&grid)),
        ("worst", "What would help", worst::section(advice)),
        ("unusual", "Fallbacks", unusual::section(report)),
        ("bytes", "Bytes", bytes::section(source, &grid)),
        ("experts", "Experts", experts::section(&report.layers)),
        ("calibration", "Calibration", calibration::section(source)),
        ("costs", "Time and memory", costs::section(report, &grid)),
        ("others", "More", calibration::others(source)),
        ("layers", "All layers", layers::all(report)),
        ("hashes", "Hashes", hashes::section(report)),
    ];
    // A model without experts has no section about them.
    let there = || sections.iter().filter(|(_, _, section)| !section.0.is_empty());
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
                    nav aria-label="Contents" {
                        @for (id, name, _) in there() { a href=(format!("#{id}")) { (name) } }
                    }
                    @for (id, _, section) in there() { section id=(id) { (section) } }
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
