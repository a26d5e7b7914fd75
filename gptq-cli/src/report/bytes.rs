//! Where the bytes are, and bits where layers differ.

use maud::{Markup, html};

use super::{
    chart::{SERIES, percent, series},
    head::UNKNOWN,
    heat::{Fill, Map, Tile},
    number,
    place::Grid,
    source::Source,
};
use crate::terminal;

/// A part of the result.
struct Part {
    name: String,
    bytes: u64,
}

pub(super) fn section(source: &Source, grid: &Grid) -> Markup {
    let report = &source.report;
    let parts = parts(source);
    let all: u64 = parts.iter().map(|part| part.bytes).sum();
    let widest = report.source_bytes.max(report.output_bytes).max(all);
    html! {
        h2 { "Bits and bytes" }
        @if widest == 0 {
            p.none { "Sizes: " (UNKNOWN) "." }
        } @else {
            (stack("source", report.source_bytes, widest, &[]))
            (stack("result", report.output_bytes.max(all), widest, &parts))
        }
        @match &source.sizes {
            Err(problem) => p.note {
                "The tensors beside the report could not be read, so what the bytes hold is "
                (UNKNOWN) ": " (problem)
            },
            Ok(_) => (table(&parts, all)),
        }
        (widths(source, grid))
    }
}

/// Packed layers by what they hold, then the rest by purpose.
fn parts(source: &Source) -> Vec<Part> {
    let Ok(sizes) = &source.sizes else { return Vec::new() };
    let mut packed: Vec<Part> = sizes
        .packed_bytes
        .iter()
        .map(|(part, bytes)| Part { name: format!("packed: {part}"), bytes: *bytes })
        .collect();
    packed.sort_by_key(|part| std::cmp::Reverse(part.bytes));
    let dense = sizes.shares.iter().filter(|share| !share.kind.starts_with("packed "));
    packed.extend(dense.map(|s| Part { name: format!("dense: {}", s.kind), bytes: s.bytes }));
    packed
}

fn stack(name: &str, bytes: u64, widest: u64, parts: &[Part]) -> Markup {
    let share = |bytes: u64| bytes as f64 / widest as f64;
    let starts = parts.iter().scan(0, |sum, part| {
        let start = *sum;
        *sum += part.bytes;
        Some(start)
    });
    html! {
        div.bars.stack { div.row {
            span.name { (name) }
            svg.bar role="img" {
                title { (name) ": " (terminal::bytes(bytes)) }
                @if parts.is_empty() {
                    rect.plain width=(percent(share(bytes))) height="100%" {}
                }
                @for (at, (part, start)) in parts.iter().zip(starts).enumerate() {
                    rect.(series(at)) x=(percent(share(start))) width=(percent(share(part.bytes)))
                        height="100%" {
                        title { (part.name) ": " (terminal::bytes(part.bytes)) }
                    }
                }
            }
            span.value { (if bytes == 0 { UNKNOWN.to_owned() } else { terminal::bytes(bytes) }) }
        } }
    }
}

fn table(parts: &[Part], all: u64) -> Markup {
    html! {
        div.scroll { table.compact {
            thead { tr { th { "What" } th.n.roomy { "Bytes" } th.n { "Size" } th.n { "Share" } } }
            tbody {
                @for (at, part) in parts.iter().enumerate() {
                    tr {
                        td {
                            svg.swatch aria-hidden="true" {
                                rect.(series(at)) width="100%" height="100%" rx="2" {}
                            }
                            (part.name)
                            @if at >= SERIES { " (colours repeat)" }
                        }
                        td.n.roomy { (number::count(part.bytes)) }
                        td.n { (terminal::bytes(part.bytes)) }
                        td.n { (number::percent(part.bytes as f64 / all.max(1) as f64)) }
                    }
                }
            }
        } }
    }
}

/// A map where layers differ, else a sentence.
fn widths(source: &Source, grid: &Grid) -> Markup {
    let layers = &source.report.layers;
    let mut schemes: Vec<(u32, i64)> = layers.iter().map(|l| (l.bits, l.group_size)).collect();
    schemes.sort_unstable();
    schemes.dedup();
    let mut widths: Vec<u32> = schemes.iter().map(|(bits, _)| *bits).collect();
    widths.dedup();
    let named = |scheme: &(u32, i64)| {
        let n = layers.iter().filter(|l| (l.bits, l.group_size) == *scheme).count();
        let (bits, group) = scheme;
        if *bits == 0 {
            return format!("{UNKNOWN}: {}", number::of(n, "layer", "layers"));
        }
        let group = match group {
            -1 => "whole rows".to_owned(),
            _ => format!("groups of {group}"),
        };
        format!("{bits} bits in {group}: {}", number::of(n, "layer", "layers"))
    };
    let tile = |cell: &super::place::Cell| {
        let (least, most) = cell.bits;
        let range = if least == most { least.to_string() } else { format!("{least}–{most}") };
        let tip =
            format!("block {}, {}: {range} bits", grid.columns[cell.column], grid.kinds[cell.kind]);
        let at = widths.iter().position(|bits| *bits == least).unwrap_or(0);
        let (row, column) = (cell.kind, cell.column);
        Tile { row, column, fill: Fill::Series(at), number: range, tip }
    };
    html! {
        h3 { "Bits per layer" }
        @match &schemes[..] {
            [] => p.none { "No layer was quantized." },
            [one] => p { "All alike, " (named(one)) "." },
            several => ul { @for scheme in several { li { (named(scheme)) } } },
        }
        @if widths.len() > 1 {
            (Map {
                id: "map-bits",
                title: "Bits by projection and block",
                description: "Rows are projections, columns blocks.",
                rows: &grid.kinds,
                columns: &grid.columns,
                below: "block",
                tiles: grid.cells.iter().map(tile).collect(),
            }.draw())
            div.legend {
                @for (at, bits) in widths.iter().enumerate() {
                    span.key {
                        svg.swatch aria-hidden="true" {
                            rect.(series(at)) width="100%" height="100%" rx="2" {}
                        }
                        (bits) " bits"
                    }
                }
            }
        }
    }
}
