//! Any JSON as something to read: records, tables, lists, and numbers as bars.

use maud::{Markup, html};
use serde_json::{Map, Value};

use super::{
    chart::{Bar, Frame, bars, percent, ticks},
    number,
};

/// Rows of a table or entries of a list that are written out.
const LONGEST: usize = 100;

/// Depth below which JSON stays JSON.
const DEEPEST: usize = 6;

/// A record: a line per field.
pub(super) fn record(id: &str, fields: &Map<String, Value>) -> Markup {
    level(id, fields, 0)
}

fn level(id: &str, fields: &Map<String, Value>, depth: usize) -> Markup {
    html! {
        dl {
            @for (at, (key, value)) in fields.iter().enumerate() {
                @let wide = !is_plain(value);
                div.field.wide[wide] {
                    dt { (words(key)) }
                    dd { (any(&format!("{id}-{at}"), key, value, depth)) }
                }
            }
        }
    }
}

/// One value, as its shape asks for.
fn any(id: &str, key: &str, value: &Value, depth: usize) -> Markup {
    match value {
        _ if depth > DEEPEST => html! { code { (value.to_string()) } },
        Value::Array(items) if items.is_empty() => html! { "none" },
        Value::Object(fields) if fields.is_empty() => html! { "none" },
        Value::Array(items) if items.iter().all(is_plain) => match numbers(items) {
            Some(numbers) if numbers.len() >= 3 => histogram(id, key, &numbers),
            _ => list(items),
        },
        Value::Array(items) => match items.iter().map(Value::as_object).collect::<Option<Vec<_>>>()
        {
            Some(rows) if rows.iter().all(|row| row.values().all(is_plain)) => table(&rows),
            _ => html! {
                @for (at, item) in items.iter().take(LONGEST).enumerate() {
                    div.item { (any(&format!("{id}-{at}"), key, item, depth + 1)) }
                }
                (more(items.len()))
            },
        },
        Value::Object(fields) => match counts(fields) {
            Some(counts) => counted(&counts),
            None => level(id, fields, depth + 1),
        },
        plain => one(key, plain),
    }
}

fn is_plain(value: &Value) -> bool {
    !matches!(value, Value::Array(_) | Value::Object(_))
}

/// A plain value.
fn one(key: &str, value: &Value) -> Markup {
    html! {
        @match value {
            Value::Null => { "none" },
            Value::Bool(yes) => (if *yes { "yes" } else { "no" }),
            Value::Number(n) => (written(key, n)),
            Value::String(text) if is_hash(text) => code.hash { (text) },
            Value::String(text) => (text),
            other => (other.to_string()),
        }
    }
}

fn written(key: &str, n: &serde_json::Number) -> String {
    match n.as_u64() {
        Some(bytes) if key == "bytes" || key.ends_with("_bytes") => crate::terminal::bytes(bytes),
        // A seed is a name, not an amount.
        Some(seed) if key == "seed" => seed.to_string(),
        Some(n) => number::count(n),
        None if n.is_f64() => number::plain(n.as_f64().unwrap_or_default()),
        None => n.to_string(),
    }
}

fn is_hash(text: &str) -> bool {
    text.len() >= 32 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// `n_samples` as `n samples`.
fn words(key: &str) -> String {
    match key {
        "n_samples" => "samples".into(),
        "seq_len" => "tokens per sample".into(),
        "text_tokens" => "tokens in the text".into(),
        "covered_tokens" => "tokens covered by samples".into(),
        "ids_sha256" => "SHA-256 of the token ids".into(),
        "sha256" => "SHA-256".into(),
        _ => key.replace('_', " "),
    }
}

fn numbers(items: &[Value]) -> Option<Vec<f64>> {
    items.iter().map(Value::as_f64).collect()
}

/// A record of nothing but amounts, more than a few: a histogram with names.
fn counts(fields: &Map<String, Value>) -> Option<Vec<(&str, u64)>> {
    let all = fields.iter().map(|(key, value)| Some((key.as_str(), value.as_u64()?)));
    all.collect::<Option<Vec<_>>>().filter(|counts| counts.len() >= 8)
}

fn counted(counts: &[(&str, u64)]) -> Markup {
    let most = counts.iter().map(|(_, n)| *n).max().unwrap_or(0).max(1) as f64;
    let bar = |(name, n): &(&str, u64)| Bar {
        name: words(name),
        share: *n as f64 / most,
        value: number::count(*n),
    };
    html! {
        (bars(&counts.iter().take(LONGEST).map(bar).collect::<Vec<_>>(), "s0"))
        (more(counts.len()))
    }
}

fn histogram(id: &str, key: &str, numbers: &[f64]) -> Markup {
    let most = numbers.iter().copied().fold(0.0, f64::max);
    let axis = ticks(most);
    let top = axis.last().copied().unwrap_or(1.0);
    let n = numbers.len() as f64;
    let labels = (0..numbers.len()).map(|at| ((at as f64 + 0.5) / n, at.to_string()));
    let shown = numbers.iter().take(LONGEST).map(|x| number::plain(*x));
    let (title, description) = (words(key), format!("{} numbers, one bar each.", numbers.len()));
    let frame = Frame {
        id,
        title: &title,
        description: &description,
        height: 120.0,
        rows: axis.iter().map(|tick| (tick / top, number::plain(*tick))).collect(),
        columns: labels.collect(),
        below: "",
        lines: true,
    };
    html! {
        (frame.around(&html! {
            @for (at, x) in numbers.iter().enumerate() {
                @let share = (x / top).clamp(0.0, 1.0);
                rect.s0 x=(percent((at as f64 + 0.1) / n)) width=(percent(0.8 / n))
                    y=(percent(1.0 - share)) height=(percent(share)) {
                    title { (at) ": " (number::plain(*x)) }
                }
            }
        }))
        details {
            summary { "the numbers" }
            p.faint { (shown.collect::<Vec<_>>().join(", ")) (more(numbers.len())) }
        }
    }
}

fn list(items: &[Value]) -> Markup {
    html! {
        @for (at, item) in items.iter().take(LONGEST).enumerate() {
            @if at > 0 { ", " }
            (one("", item))
        }
        (more(items.len()))
    }
}

fn table(rows: &[&Map<String, Value>]) -> Markup {
    let mut keys: Vec<&str> = Vec::new();
    for key in rows.iter().flat_map(|row| row.keys()) {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    html! {
        div.scroll { table.compact {
            thead { tr {
                @for key in &keys {
                    @let number = rows.iter().filter_map(|row| row.get(*key)).all(Value::is_number);
                    th.n[number] { (words(key)) }
                }
            } }
            tbody {
                @for row in rows.iter().take(LONGEST) {
                    tr {
                        @for key in &keys {
                            td.n[row.get(*key).is_some_and(Value::is_number)] {
                                @if let Some(value) = row.get(*key) { (one(key, value)) }
                            }
                        }
                    }
                }
            }
        } }
        (more(rows.len()))
    }
}

fn more(n: usize) -> Markup {
    html! { @if n > LONGEST { span.faint { " … and " (n - LONGEST) " more" } } }
}
