//! Losses against rounding: in the order of the run, and by projection and depth.

use maud::{Markup, html};

use super::{
    chart::{Decades, Frame, SERIES, percent, series, ticks},
    heat::{Fill, Map, Tile, legend},
    number,
    place::{Cell, Grid},
};

/// The most of rounding's loss that has a place on the axis.
const MOST: f64 = 2.0;

pub(super) fn section(grid: &Grid) -> Markup {
    let solved = grid.cells.iter().filter(|cell| cell.loss.is_some()).count();
    html! {
        h2 { "Loss per layer, against rounding" }
        @if solved == 0 {
            p.none {
                "No losses were recorded: a linear that is rounded without calibration has none. "
                "Run " code { "gptq quantize --method gptq" } " with " code { "--calib" }
                " to have them."
            }
        } @else {
            p.how {
                "The loss of a linear is " code { "½ tr((W − Q) H (W − Q)ᵀ)" }
                " with " code { "H = 2/tokens · XᵀX" }
                ": the squared error of its outputs on the calibration text. Rounding to the "
                "nearest code is 100%; less is better. Experts of a block are summed."
            }
            h3 { "What is left of rounding’s loss" }
            (ratios(grid))
            (kinds(grid))
            h3 { "Loss itself, and rounding’s above it" }
            (losses(grid))
            (kinds(grid))
        }
    }
}

/// In the order of the run.
fn x(at: usize, of: usize) -> f64 {
    (at as f64 + 0.5) / of as f64
}

fn tip(grid: &Grid, cell: &Cell) -> String {
    let mut text = format!("block {}, {}", grid.columns[cell.column], grid.kinds[cell.kind]);
    if cell.linears > 1 {
        text += &format!(" ({} linears)", cell.linears);
    }
    match (cell.loss, cell.rtn) {
        (Some(loss), Some(rtn)) => {
            text += &format!(": loss {}, rounding {}", number::plain(loss), number::plain(rtn));
        }
        _ => text += ": no loss recorded",
    }
    if let Some(ratio) = cell.ratio() {
        text += &format!(" ({})", number::percent(ratio));
    }
    match cell.fallbacks {
        0 => text,
        n => text + &format!("; {n} fell back"),
    }
}

/// Stripes behind every other block, and the blocks' names.
fn blocks(grid: &Grid) -> (Markup, Vec<(f64, String)>) {
    let n = grid.cells.len();
    let mut spans: Vec<(usize, usize, usize)> = Vec::new();
    for (at, cell) in grid.cells.iter().enumerate() {
        match spans.last_mut() {
            Some((column, _, end)) if *column == cell.column => *end = at + 1,
            _ => spans.push((cell.column, at, at + 1)),
        }
    }
    let place = |at: usize| at as f64 / n.max(1) as f64;
    let stripes = html! {
        @for (_, start, end) in spans.iter().skip(1).step_by(2) {
            rect.stripe x=(percent(place(*start))) width=(percent(place(end - start)))
                y="0" height="100%" {}
        }
    };
    let label = |(column, start, end): &(usize, usize, usize)| {
        (f64::midpoint(place(*start), place(*end)), grid.columns[*column].clone())
    };
    (stripes, spans.iter().map(label).collect())
}

fn ratios(grid: &Grid) -> Markup {
    let largest = grid.cells.iter().filter_map(Cell::ratio).fold(0.0, f64::max);
    let axis = ticks(largest.min(MOST));
    let top = axis.last().copied().unwrap_or(1.0);
    let (stripes, columns) = blocks(grid);
    let above = grid.cells.iter().filter(|c| c.ratio().is_some_and(|r| r > top)).count();
    let description = format!(
        "One dot per projection and block, in the order of the run; the largest is {}.",
        number::percent(largest)
    );
    let frame = Frame {
        id: "ratio",
        title: "Loss as a share of rounding’s, per layer",
        description: &description,
        height: 240.0,
        rows: axis.iter().map(|tick| (tick / top, number::percent_short(*tick))).collect(),
        columns,
        below: "block",
        lines: true,
    };
    let place = |cell: &Cell| cell.ratio().map(|ratio| 1.0 - (ratio / top).min(1.0));
    html! {
        (frame.around(&html! {
            (stripes)
            @if top >= 1.0 {
                line.limit x1="0" x2="100%" y1=(percent(1.0 - 1.0 / top)) y2=(percent(1.0 - 1.0 / top)) {}
            }
            (threads(grid, &place))
            (dots(grid, &place))
        }))
        @if above > 0 {
            p.note { (number::of(above, "dot lies", "dots lie")) " above the axis, drawn at its end." }
        }
    }
}

fn losses(grid: &Grid) -> Markup {
    let values = grid.cells.iter().flat_map(|cell| [cell.loss, cell.rtn]).flatten();
    let Some(axis) = Decades::around(values) else {
        return html! { p.none { "All losses are 0." } };
    };
    let (stripes, columns) = blocks(grid);
    let n = grid.cells.len();
    let frame = Frame {
        id: "loss",
        title: "Loss per layer on a logarithmic axis",
        description: "One dot per projection and block, in the order of the run; the line above it \
                      ends at the loss of rounding.",
        height: 260.0,
        rows: axis.labels(),
        columns,
        below: "block",
        lines: true,
    };
    frame.around(&html! {
        (stripes)
        @for (at, cell) in grid.cells.iter().enumerate() {
            @if let (Some(loss), Some(rtn)) = (cell.loss, cell.rtn) {
                line.stem x1=(percent(x(at, n))) x2=(percent(x(at, n)))
                    y1=(percent(1.0 - axis.place(loss))) y2=(percent(1.0 - axis.place(rtn))) {}
            }
        }
        (dots(grid, &|cell| Some(1.0 - axis.place(cell.loss?))))
    })
}

/// Dots of all cells that have a place.
fn dots(grid: &Grid, place: &dyn Fn(&Cell) -> Option<f64>) -> Markup {
    let n = grid.cells.len();
    let radius = if n > 200 { "2.2" } else { "3.6" };
    html! {
        @for (at, cell) in grid.cells.iter().enumerate() {
            @if let Some(y) = place(cell) {
                circle.(series(cell.kind)) cx=(percent(x(at, n))) cy=(percent(y)) r=(radius) {
                    title { (tip(grid, cell)) }
                }
            }
        }
    }
}

/// A thin line from each projection to the same in the next block.
fn threads(grid: &Grid, place: &dyn Fn(&Cell) -> Option<f64>) -> Markup {
    let n = grid.cells.len();
    let mut last: Vec<Option<(f64, f64)>> = vec![None; grid.kinds.len()];
    let mut lines = Vec::new();
    for (at, cell) in grid.cells.iter().enumerate() {
        let here = place(cell).map(|y| (x(at, n), y));
        if let (Some(from), Some(to)) = (last[cell.kind], here) {
            lines.push((cell.kind, from, to));
        }
        last[cell.kind] = here;
    }
    html! {
        @for (kind, (x1, y1), (x2, y2)) in lines {
            line class=(format!("thread {}", series(kind))) x1=(percent(x1)) y1=(percent(y1))
                x2=(percent(x2)) y2=(percent(y2)) {}
        }
    }
}

fn kinds(grid: &Grid) -> Markup {
    html! {
        div.legend {
            @for (at, kind) in grid.kinds.iter().enumerate() {
                span.key {
                    svg.swatch aria-hidden="true" {
                        circle.(series(at)) cx="50%" cy="50%" r="5" {}
                    }
                    (kind)
                }
            }
            @if grid.kinds.len() > SERIES {
                span { "(colours repeat; point at a dot for its name)" }
            }
        }
    }
}

/// Two maps of projections by blocks; nothing without losses.
pub(super) fn depth(grid: &Grid) -> Markup {
    if grid.cells.iter().all(|cell| cell.loss.is_none()) {
        return html! {};
    }
    let map = |id, title, description, fill: &dyn Fn(&Cell) -> (Fill, String)| {
        let tiles = grid.cells.iter().map(|cell| {
            let (fill, number) = match (cell.loss, cell.fallbacks) {
                (None, 1..) => (Fill::Bad, "×".to_owned()),
                (None, 0) => (Fill::Unknown, "–".to_owned()),
                _ => fill(cell),
            };
            Tile { row: cell.kind, column: cell.column, fill, number, tip: tip(grid, cell) }
        });
        let (rows, columns) = (&grid.kinds[..], &grid.columns[..]);
        let tiles = tiles.collect();
        Map { id, title, description, rows, columns, below: "block", tiles }.draw()
    };
    let largest = grid.cells.iter().filter_map(Cell::ratio).fold(0.0, f64::max);
    let top = largest.clamp(f64::MIN_POSITIVE, 1.0);
    let by_ratio = |cell: &Cell| match cell.ratio() {
        Some(ratio) if ratio > 1.0 => (Fill::Bad, number::percent_short(ratio)),
        Some(ratio) => (Fill::Scale(ratio / top), number::percent_short(ratio)),
        None => (Fill::Unknown, "–".into()),
    };
    let all = || grid.cells.iter().filter_map(|cell| cell.loss);
    let (low, high) = all()
        .filter(|loss| *loss > 0.0 && loss.is_finite())
        .fold((f64::MAX, f64::MIN_POSITIVE), |(low, high), loss| (low.min(loss), high.max(loss)));
    let span = high.ln() - low.ln();
    let by_loss = |cell: &Cell| match cell.loss {
        Some(loss) if loss > 0.0 => {
            let at = if span > 0.0 { (loss.ln() - low.ln()) / span } else { 0.5 };
            (Fill::Scale(at), number::short(loss))
        }
        _ => (Fill::Unknown, "0".into()),
    };
    let fell = grid.cells.iter().any(|cell| cell.loss.is_none() && cell.fallbacks > 0);
    let mut others = Vec::new();
    if fell {
        others.push((Fill::Bad, "fell back: no loss"));
    }
    let mut ratio_others = others.clone();
    if largest > 1.0 {
        ratio_others.push((Fill::Bad, "worse than rounding"));
    }
    html! {
        h2 { "By projection and depth" }
        h3 { "What is left of rounding’s loss" }
        (map("map-ratio", "Share of rounding’s loss by projection and block",
            "Rows are projections, columns blocks; lighter is more.", &by_ratio))
        (legend("0%", &number::percent(top), &ratio_others))
        @if high >= low {
            h3 { "Loss itself (logarithmic)" }
            (map("map-loss", "Loss by projection and block",
                "Rows are projections, columns blocks; lighter is more.", &by_loss))
            (legend(&number::plain(low), &number::plain(high), &others))
        }
    }
}
