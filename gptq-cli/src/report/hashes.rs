//! What was read and what was written, by SHA-256.

use std::collections::BTreeMap;

use gptq_models::{Fate, Report};
use maud::{Markup, html};

use super::{head::UNKNOWN, number};

pub(super) fn section(report: &Report) -> Markup {
    html! {
        h2 { "Files and hashes" }
        p.how { code { "gptq verify DIR --source MODEL" } " compares all of them." }
        (list("Source", &report.source))
        (list("Result: files, and headers of weight files", &report.files))
        (list("Result: tensors", &report.sha256))
        (fates(report))
        p.faint {
            "Seal of the report: "
            @if report.seal.is_empty() { (UNKNOWN) } @else { code.hash { (report.seal) } }
        }
    }
}

fn list(title: &str, hashes: &BTreeMap<String, String>) -> Markup {
    html! {
        details {
            summary {
                (title) ": "
                @if hashes.is_empty() { (UNKNOWN) } @else { (number::count(hashes.len() as u64)) }
            }
            @if !hashes.is_empty() {
                div.scroll { table {
                    thead { tr { th { "Name" } th { "SHA-256" } } }
                    tbody {
                        @for (name, hash) in hashes {
                            tr { td { code { (name) } } td { code.hash { (hash) } } }
                        }
                    }
                } }
            }
        }
    }
}

/// What became of the source: counts, and whatever was left out.
fn fates(report: &Report) -> Markup {
    let entries = || report.ledger.tensors.iter().chain(&report.ledger.files);
    let count = |fate| entries().filter(|entry| entry.fate == fate).count();
    let dropped: Vec<_> = entries().filter(|entry| entry.fate == Fate::Dropped).collect();
    html! {
        details {
            summary {
                "What became of the source’s tensors and files: " (count(Fate::Quantized))
                " quantized, " (count(Fate::Copied)) " copied, " (count(Fate::Rewritten))
                " rewritten, " (dropped.len()) " dropped"
            }
            @if dropped.is_empty() {
                p { "Nothing was left out." }
            } @else {
                div.scroll { table {
                    thead { tr { th { "Left out" } th { "Why" } } }
                    tbody {
                        @for entry in dropped {
                            tr {
                                td { code { (entry.name) } }
                                td.text { (entry.reason.as_deref().unwrap_or(UNKNOWN)) }
                            }
                        }
                    }
                } }
            }
        }
    }
}
