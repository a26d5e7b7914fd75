//! Time and memory.

use gptq_models::{MemoryReport, Report};
use maud::{Markup, html};

use super::{
    chart::{Bar, Frame, bars, percent, ticks},
    head::UNKNOWN,
    number,
    place::Grid,
};
use crate::terminal;

pub(super) fn section(report: &Report, grid: &Grid) -> Markup {
    html! {
        h2 { "Time and memory" }
        (time(report, grid))
        h3 { "Memory" }
        (memory(&report.memory))
    }
}

fn time(report: &Report, grid: &Grid) -> Markup {
    let mut seconds = vec![0.0; grid.columns.len()];
    grid.cells.iter().for_each(|cell| seconds[cell.column] += cell.seconds);
    let longest = seconds.iter().copied().fold(0.0, f64::max);
    let sum: f64 = seconds.iter().sum();
    if longest <= 0.0 || !sum.is_finite() {
        return html! { p.none { "Time per layer: " (UNKNOWN) "." } };
    }
    let axis = ticks(longest);
    let top = axis.last().copied().unwrap_or(1.0);
    let n = seconds.len() as f64;
    let label = |(at, name): (usize, &String)| ((at as f64 + 0.5) / n, name.clone());
    let frame = Frame {
        id: "time",
        title: "Seconds per block",
        description: &format!("One bar per block; the longest is {}.", number::duration(longest)),
        height: 160.0,
        rows: axis.iter().map(|tick| (tick / top, format!("{} s", number::plain(*tick)))).collect(),
        columns: grid.columns.iter().enumerate().map(label).collect(),
        below: "block",
        lines: true,
    };
    let whole = report.seconds;
    html! {
        h3 { "Time per block" }
        p.how {
            (number::duration(sum)) " in blocks"
            @if whole > sum {
                ", " (number::duration(whole - sum)) " before and after (reading, writing, hashing)"
            }
            @if !report.computed.is_empty() { ", in " (report.computed) }
            "."
        }
        (frame.around(&html! {
            @for (at, s) in seconds.iter().enumerate() {
                rect.s0 x=(percent((at as f64 + 0.1) / n)) width=(percent(0.8 / n))
                    y=(percent(1.0 - s / top)) height=(percent(s / top)) {
                    title { "block " (grid.columns[at]) ": " (number::duration(*s)) }
                }
            }
        }))
    }
}

fn memory(m: &MemoryReport) -> Markup {
    let parts = [
        ("samples that waited", m.waiting_bytes),
        ("weights of the largest stage", m.weights_bytes),
        ("widest Hessian and its factor", m.hessian_bytes),
        ("one pass", m.pass_bytes),
    ];
    let most = parts.iter().map(|(_, bytes)| *bytes).chain(m.peak_bytes).max().unwrap_or(0);
    if most == 0 {
        return html! { p.none { "Memory: " (UNKNOWN) "." } };
    }
    let bar = |(name, bytes): (&str, u64)| Bar {
        name: name.to_owned(),
        share: bytes as f64 / most as f64,
        value: terminal::bytes(bytes),
    };
    let planned: u64 = parts.iter().map(|(_, bytes)| *bytes).fold(0, u64::saturating_add);
    let peak = m.peak_bytes.map(|peak| bar(("peak of the process", peak)));
    html! {
        @match peak {
            Some(peak) => (bars(&[peak], "plain")),
            None => p.note { "The peak: " (UNKNOWN) "." },
        }
        @if planned > 0 {
            (bars(&parts.map(bar), "s0"))
            p.note {
                "The parts are what the sizes in the headers come to, " (terminal::bytes(planned))
                " together; the peak is the system’s count, which includes pages of mapped files."
            }
        } @else {
            p.note { "A run that only rounds holds a layer at a time." }
        }
        @if m.scratch_bytes > 0 {
            p { (terminal::bytes(m.scratch_bytes)) " of samples waited in the scratch file." }
        }
    }
}
