//! The text that losses are measured on, and what else the report says.

use maud::{Markup, html};
use serde_json::Value;

use super::{head::UNKNOWN, json, source::Source};

pub(super) fn section(source: &Source) -> Markup {
    let report = &source.report;
    let rounded = report.settings["method"] == "rtn";
    html! {
        h2 { "Calibration" }
        @match &report.calibration {
            Value::Object(fields) if !fields.is_empty() => (json::record("calibration", fields)),
            Value::Null if rounded => p { "None: rounding needs no text." },
            Value::Null => p.none { "Calibration: " (UNKNOWN) "." },
            other => p { (other.to_string()) },
        }
    }
}

/// Fields that no other section has a place for.
pub(super) fn others(source: &Source) -> Markup {
    html! {
        @if !source.others.is_empty() {
            h2 { "Also in the report" }
            (json::record("others", &source.others))
        }
    }
}
