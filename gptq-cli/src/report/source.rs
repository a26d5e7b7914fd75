//! What a page is made of: the report, and the sizes that the tensors beside it show.

use std::{fs, path::Path};

use gptq_models::{Checkpoint, Inspection, Report, inspect};
use serde_json::{Map, Value};

use super::advice::Shapes;
use crate::failure::Failure;

/// The report's name in a result.
const REPORT: &str = "gptq_report.json";

/// Keys that the page has a place for; others are shown as they are.
const KNOWN: &[&str] = &[
    "tool",
    "settings",
    "calibration",
    "layers",
    "coverage",
    "adapter",
    "notices",
    "ledger",
    "sha256",
    "source_bytes",
    "output_bytes",
    "seconds",
    "interruptions",
    "kept",
    "computed",
    "memory",
    "source",
    "files",
    "seal",
];

/// A run, read.
pub(super) struct Source {
    /// The folder's name.
    pub(super) name: String,
    pub(super) report: Report,
    /// What the report says beyond that.
    pub(super) others: Map<String, Value>,
    /// The tensors' sizes, or why they are not known.
    pub(super) sizes: Result<Inspection, String>,
}

impl Source {
    pub(super) fn read(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(REPORT);
        let text = fs::read_to_string(&path).map_err(|e| {
            Failure::failed(format!(
                "cannot read {}: {e}; gptq quantize writes it into its --out folder",
                path.display()
            ))
        })?;
        let (report, others) = parse(&text)
            .map_err(|problem| Failure::failed(format!("{}: {problem}", path.display())))?;
        let name = dir.canonicalize().ok();
        let name = name.as_deref().unwrap_or(dir).file_name().unwrap_or_default();
        let sizes = Checkpoint::open(dir).and_then(|checkpoint| inspect(&checkpoint));
        Ok(Self {
            name: clean(&name.to_string_lossy()),
            report,
            others,
            sizes: sizes.map_err(|e| clean(&e.to_string())),
        })
    }

    /// Of each packed linear, as far as the tensors show.
    pub(super) fn shapes(&self) -> Shapes {
        let layers = self.sizes.iter().flat_map(|sizes| &sizes.layers);
        layers.map(|l| (l.name.clone(), (l.out_features, l.in_features))).collect()
    }
}

/// The report and what it holds beside the known.
pub(super) fn parse(text: &str) -> Result<(Report, Map<String, Value>), String> {
    let value: Value = serde_json::from_str(text).map_err(|e| format!("is not JSON: {e}"))?;
    let mut value = printable(value);
    let Value::Object(fields) = &mut value else {
        return Err("is not the report of a run: it is no JSON object".into());
    };
    let of_conversion = fields.contains_key("from") && fields.contains_key("to");
    for (key, what) in [("layers", "figures of the layers"), ("settings", "settings of the run")] {
        match fields.get(key) {
            None | Some(Value::Null) if of_conversion => {
                return Err(format!(
                    "is the report of a conversion and has no {key:?}; the page is made from that \
                     of gptq quantize: use the folder it was converted from"
                ));
            }
            None | Some(Value::Null) => {
                return Err(format!("is not the report of a run: {key:?}, the {what}, is missing"));
            }
            Some(_) => {}
        }
    }
    let others = fields.iter().filter(|(key, _)| !KNOWN.contains(&key.as_str()));
    let others = others.map(|(key, value)| (key.clone(), value.clone())).collect();
    // What was not written down is the same as what is not there.
    fields.retain(|_, value| !value.is_null());
    let report = serde_json::from_value(value)
        .map_err(|e| format!("is not the report of a run as this version knows it: {e}"))?;
    Ok((report, others))
}

/// The same without characters that no page may hold, wherever they are.
fn printable(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(clean(&text)),
        Value::Array(items) => items.into_iter().map(printable).collect(),
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(key, value)| (clean(&key), printable(value)));
            Value::Object(fields.collect())
        }
        other => other,
    }
}

/// Control characters, and the two code points that are no characters, become U+FFFD: neither HTML
/// nor XML has an escape for them. So do those that change the direction of what follows.
fn clean(text: &str) -> String {
    let allowed = |c: char| match c {
        '\t' | '\n' => true,
        '\u{fffe}' | '\u{ffff}' => false,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => false,
        _ => !c.is_control(),
    };
    text.chars().map(|c| if allowed(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}
