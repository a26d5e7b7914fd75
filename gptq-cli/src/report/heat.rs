//! Maps: rows by columns, a colour each.

use maud::{Markup, html};

use super::chart::{Frame, percent};

/// Columns up to which cells have numbers in them.
const NUMBERED: usize = 16;

/// Columns up to which cells have gaps between them.
const APART: usize = 48;

/// One cell.
pub(super) struct Tile {
    pub(super) row: usize,
    pub(super) column: usize,
    pub(super) fill: Fill,
    /// To read in the cell where there is room.
    pub(super) number: String,
    /// To read when pointed at.
    pub(super) tip: String,
}

/// How a cell looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fill {
    /// Between the least and the most, in 0..=1.
    Scale(f64),
    /// One of a few.
    Series(usize),
    /// Something is wrong.
    Bad,
    /// There is no number.
    Unknown,
}

/// A map.
pub(super) struct Map<'a> {
    pub(super) id: &'a str,
    pub(super) title: &'a str,
    pub(super) description: &'a str,
    pub(super) rows: &'a [String],
    pub(super) columns: &'a [String],
    pub(super) below: &'a str,
    pub(super) tiles: Vec<Tile>,
}

impl Map<'_> {
    pub(super) fn draw(&self) -> Markup {
        let (rows, columns) = (self.rows.len().max(1) as f64, self.columns.len().max(1) as f64);
        let height = match self.rows.len() {
            0..=12 => 26.0,
            13..=40 => 18.0,
            _ => 13.0,
        };
        let middle = |at: usize, of: f64| (at as f64 + 0.5) / of;
        let labels = |names: &[String], of: f64| -> Vec<(f64, String)> {
            names.iter().enumerate().map(|(at, name)| (middle(at, of), name.clone())).collect()
        };
        let down = labels(self.rows, rows).into_iter().map(|(at, name)| (1.0 - at, name));
        let frame = Frame {
            id: self.id,
            title: self.title,
            description: self.description,
            height: height * rows,
            rows: down.collect(),
            columns: labels(self.columns, columns),
            below: self.below,
            lines: false,
        };
        let class = if self.columns.len() <= APART { "tile apart" } else { "tile" };
        let numbered = self.columns.len() <= NUMBERED && height >= 18.0;
        frame.around(&html! {
            @for tile in &self.tiles {
                @let (x, y) = (tile.column as f64 / columns, tile.row as f64 / rows);
                @let (fill, ink) = tile.fill.colours();
                rect class=(format!("{class} {}", tile.fill.class())) fill=[fill]
                    x=(percent(x)) y=(percent(y))
                    width=(percent(1.0 / columns)) height=(percent(1.0 / rows)) {
                    title { (tile.tip) }
                }
                @if numbered {
                    text class=(format!("number {ink}")) x=(percent(middle(tile.column, columns)))
                        y=(percent(middle(tile.row, rows))) dy="0.35em" text-anchor="middle" {
                        (tile.number)
                    }
                }
            }
        })
    }
}

impl Fill {
    fn class(self) -> String {
        match self {
            Fill::Scale(_) => String::new(),
            Fill::Series(index) => super::chart::series(index),
            Fill::Bad => "bad".into(),
            Fill::Unknown => "unknown".into(),
        }
    }

    /// Of the cell, if no class says it, and the class of letters on it.
    fn colours(self) -> (Option<String>, &'static str) {
        match self {
            Fill::Scale(at) => {
                let [r, g, b] = scale(at);
                let light = 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
                // Where black and white are as easy to read.
                let ink = if light > 0.18 { "dark" } else { "light" };
                (Some(format!("#{r:02x}{g:02x}{b:02x}")), ink)
            }
            Fill::Series(_) => (None, "on-series"),
            Fill::Bad => (None, "light"),
            Fill::Unknown => (None, "faint"),
        }
    }
}

/// Colours from dark to light through blue and green, in the manner of viridis: told apart by
/// everyone, and in print.
const STOPS: [[u8; 3]; 6] =
    [[68, 1, 84], [65, 68, 135], [42, 120, 142], [34, 168, 132], [122, 209, 81], [253, 231, 37]];

fn scale(at: f64) -> [u8; 3] {
    let at = at.clamp(0.0, 1.0) * (STOPS.len() - 1) as f64;
    let below = (at as usize).min(STOPS.len() - 2);
    let part = at - below as f64;
    let mix = |i: usize| {
        let (a, b) = (f64::from(STOPS[below][i]), f64::from(STOPS[below + 1][i]));
        (a + part * (b - a)).round() as u8
    };
    [mix(0), mix(1), mix(2)]
}

/// sRGB to light.
fn linear(channel: u8) -> f64 {
    let c = f64::from(channel) / 255.0;
    if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
}

/// The scale from `low` to `high`, and what other fills mean.
pub(super) fn legend(low: &str, high: &str, others: &[(Fill, &str)]) -> Markup {
    const STEPS: usize = 40;
    html! {
        div.legend {
            span { (low) }
            svg.ramp aria-hidden="true" {
                @for step in 0..STEPS {
                    @let at = step as f64 / STEPS as f64;
                    rect x=(percent(at)) width=(percent(1.1 / STEPS as f64)) height="100%"
                        fill=[Fill::Scale(at).colours().0] {}
                }
            }
            span { (high) }
            @for (fill, meaning) in others {
                span.key {
                    svg.swatch aria-hidden="true" {
                        rect.(fill.class()) width="100%" height="100%" rx="2" {}
                    }
                    (meaning)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_can_be_read_on_every_colour() {
        for step in 0..=100 {
            let at = f64::from(step) / 100.0;
            let [r, g, b] = scale(at);
            let light = 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
            let contrast = match Fill::Scale(at).colours().1 {
                "dark" => (light + 0.05) / 0.05,
                _ => 1.05 / (light + 0.05),
            };
            assert!(contrast >= 4.5, "{at}: {contrast}");
        }
    }
}
