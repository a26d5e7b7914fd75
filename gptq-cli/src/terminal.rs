//! The only file that prints: results, messages, tables, progress.

use std::{
    borrow::Cow,
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use gptq_models::{LayerReport, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::failure::Failure;

/// Writes to stdout. A reader that has gone away (`| head`) is not our failure.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes a line to stderr.
pub(crate) fn message(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", harmless(text));
}

/// The same text without what a terminal would take for a command: names of files and tensors are
/// whatever their authors chose.
fn harmless(text: &str) -> Cow<'_, str> {
    let commands = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(commands) {
        return text.into();
    }
    let shown = |c: char| if commands(c) { c.escape_unicode().to_string() } else { c.into() };
    text.chars().map(shown).collect::<String>().into()
}

/// The one JSON object of `--json`.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value);
    print(&(text.map_err(|e| Failure::failed(format!("cannot write JSON: {e}")))? + "\n"));
    Ok(())
}

/// Aligned columns: the first to the left, the others to the right.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|h| (*h).to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = cells.into_iter().map(|cell| harmless(&cell).into_owned());
        self.rows.push(cells.collect());
    }

    pub(crate) fn render(&self) -> String {
        let columns = self.rows[0].len();
        let width = |c: usize| self.rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let cell = |(c, text): (usize, &String)| match c {
                0 => format!("{text:<width$}", width = widths[c]),
                _ => format!("{text:>width$}", width = widths[c]),
            };
            row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let mut out = line(&self.rows[0]) + "\n";
        out += &widths.iter().map(|w| "-".repeat(*w)).collect::<Vec<_>>().join("  ");
        for row in &self.rows[1..] {
            out += "\n";
            out += &line(row);
        }
        out + "\n"
    }
}

/// `1.31 GB`, in powers of a thousand.
pub(crate) fn bytes(n: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.2} {}", units[unit]) }
}

/// `1:02:03` or `2:03`.
pub(crate) fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m}:{s:02}") }
}

/// A share of work done, with a time estimate: a bar on a terminal, a line every tenth elsewhere.
pub(crate) struct Meter {
    bar: Option<ProgressBar>,
    title: String,
    started: Instant,
    tenths: u32,
}

/// Steps of the bar.
const STEPS: u64 = 1000;

impl Meter {
    pub(crate) fn new(title: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(STEPS), ProgressDrawTarget::stderr());
            let template = "{prefix} [{bar:30}] {percent:>3}%  {elapsed}, left {eta}  {msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(title.to_owned());
            bar
        });
        Self { bar, title: title.to_owned(), started: Instant::now(), tenths: 0 }
    }

    pub(crate) fn set(&mut self, share: f64, what: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(what.to_owned());
                bar.set_position((share * STEPS as f64) as u64);
            }
            None => {
                let tenths = (share * 10.0) as u32;
                if tenths > self.tenths {
                    self.tenths = tenths;
                    let elapsed = self.started.elapsed();
                    let left = elapsed.mul_f64((1.0 - share).max(0.0) / share);
                    let (done, left) = (clock(elapsed), clock(left));
                    message(&format!("{} {}0%  {done}, left {left}", self.title, tenths));
                }
            }
        }
    }

    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| message(text)),
            None => message(text),
        }
    }

    pub(crate) fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Meter {
    fn advance(&mut self, share: f64, what: &str) {
        self.set(share, what);
    }

    fn layer(&mut self, report: &LayerReport) {
        if let Some(fallback) = &report.fallback {
            self.say(&format!(
                "{:<44} {} bits  by {}: {}",
                report.name, report.bits, fallback.strategy, fallback.reason
            ));
        }
        if let (Some(loss), Some(rtn)) = (report.loss, report.rtn_loss) {
            let raised = match report.damp_attempts {
                Some(attempts) if attempts > 1 => {
                    let percent = report.damp_percent.unwrap_or_default();
                    format!("  damp_percent raised to {percent:.3} after {attempts} attempts")
                }
                _ => String::new(),
            };
            let raised = match report.damp_floor {
                Some(floor) if floor > 0 => raised + ", and the diagonal itself",
                _ => raised,
            };
            self.say(&format!(
                "{:<44} {} bits  loss {loss:.4e}  ({:.0}% of rounding){raised}",
                report.name,
                report.bits,
                100.0 * loss / rtn
            ));
        }
    }

    fn notice(&mut self, text: &str) {
        self.say(&format!("note: {text}"));
    }
}
