//! Drawing: positions are percentages of the plot, so that it is as wide as the page allows, while
//! letters, dots and lines keep their size.

use maud::{Markup, html};

/// Space of a character of an axis label, in pixels, and of what is around a label.
const LETTER: f64 = 7.0;
const AROUND: f64 = 14.0;

/// The longest label that is written out.
const LONGEST: usize = 23;

/// A plot and the labels to its left, on a narrow page.
const NARROW: f64 = 334.0;

/// A plot's frame.
pub(super) struct Frame<'a> {
    /// For references inside the page; one word.
    pub(super) id: &'a str,
    pub(super) title: &'a str,
    /// What is to be seen, in words.
    pub(super) description: &'a str,
    /// In pixels.
    pub(super) height: f64,
    /// Labels of the vertical axis by their place from the bottom, in 0..=1.
    pub(super) rows: Vec<(f64, String)>,
    /// Labels of the horizontal axis by their place from the left; some are left out where they
    /// would not fit.
    pub(super) columns: Vec<(f64, String)>,
    /// What the horizontal axis counts.
    pub(super) below: &'a str,
    /// Lines across at the labels of the vertical axis.
    pub(super) lines: bool,
}

impl Frame<'_> {
    /// The frame around what [`percent`] puts into it.
    pub(super) fn around(&self, marks: &Markup) -> Markup {
        let letters = self.rows.iter().map(|(_, label)| fitted(label).chars().count()).max();
        let left = AROUND + LETTER * letters.unwrap_or(0) as f64;
        let style = format!(
            "margin-left:{left:.0}px;width:calc(100% - {left:.0}px);height:{:.0}px",
            self.height
        );
        let (title, description) = (format!("{}-title", self.id), format!("{}-desc", self.id));
        html! {
            div.plot.tight[self.below.is_empty()] {
                svg.chart role="img" aria-labelledby=(format!("{title} {description}")) style=(style) {
                    title id=(title) { (self.title) }
                    desc id=(description) { (self.description) }
                    @if self.lines {
                        @for (at, _) in &self.rows {
                            line.rule x1="0" x2="100%" y1=(percent(1.0 - at)) y2=(percent(1.0 - at)) {}
                        }
                    }
                    (marks)
                    @for (at, label) in &self.rows {
                        text.label x="-8" y=(percent(1.0 - at)) dy="0.35em" text-anchor="end" {
                            (fitted(label))
                        }
                    }
                    @for (at, label) in thinned(&self.columns, NARROW - left) {
                        text.label x=(percent(*at)) y="100%" dy="17" text-anchor=(anchor(*at, label)) {
                            (fitted(label))
                        }
                    }
                    @if !self.below.is_empty() {
                        text.below x="50%" y="100%" dy="35" text-anchor="middle" { (self.below) }
                    }
                }
            }
        }
    }
}

/// A label, its start left out if it is long: the end tells it from others.
fn fitted(label: &str) -> String {
    let letters = label.chars().count();
    if letters <= LONGEST {
        return label.to_owned();
    }
    let end: String = label.chars().skip(letters + 1 - LONGEST).collect();
    format!("…{end}")
}

/// A place or length as an attribute.
pub(super) fn percent(share: f64) -> String {
    format!("{:.2}%", 100.0 * share)
}

/// As many of the labels, evenly chosen, as there is room for, the first among them.
fn thinned(labels: &[(f64, String)], room: f64) -> impl Iterator<Item = &(f64, String)> {
    let longest = labels.iter().map(|(_, label)| fitted(label).chars().count()).max();
    let each = LETTER * (longest.unwrap_or(0) + 2) as f64;
    let most = ((room / each) as usize).clamp(1, 12);
    let steps = [1, 2, 5, 10, 20, 50, 100, 200, 500];
    let step = steps.into_iter().find(|step| labels.len().div_ceil(*step) <= most);
    labels.iter().step_by(step.unwrap_or(1000))
}

/// Where a label is held: long ones must not reach beyond the plot.
fn anchor(at: f64, label: &str) -> &'static str {
    match at {
        _ if label.chars().count() <= 6 => "middle",
        at if at < 0.2 => "start",
        at if at > 0.8 => "end",
        _ => "middle",
    }
}

/// Round numbers from 0 up to at least `max`: the last is the end of the axis.
pub(super) fn ticks(max: f64) -> Vec<f64> {
    if !(max.is_finite() && max > 0.0) {
        return vec![0.0, 1.0];
    }
    let rough = max / 4.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * power);
    let step = step.into_iter().find(|step| *step >= rough * 0.999).unwrap_or(10.0 * power);
    (0..=(max / step).ceil() as usize).map(|n| n as f64 * step).collect()
}

/// An axis of powers of ten around positive numbers.
pub(super) struct Decades {
    low: i32,
    high: i32,
}

impl Decades {
    /// `None` if no number is positive.
    pub(super) fn around(values: impl Iterator<Item = f64>) -> Option<Self> {
        let positive = values.filter(|v| *v > 0.0 && v.is_finite());
        let (low, high) = positive.fold((f64::MAX, 0.0_f64), |(l, h), v| (l.min(v), h.max(v)));
        let (low, high) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        (high >= low).then_some(Self { low, high: high.max(low + 1) })
    }

    /// From the bottom, in 0..=1.
    pub(super) fn place(&self, value: f64) -> f64 {
        let span = f64::from(self.high - self.low);
        ((value.max(f64::MIN_POSITIVE).log10() - f64::from(self.low)) / span).clamp(0.0, 1.0)
    }

    pub(super) fn labels(&self) -> Vec<(f64, String)> {
        let step = ((self.high - self.low) as usize).div_ceil(6);
        let powers = (self.low..=self.high).step_by(step);
        powers.map(|power| (self.place(10_f64.powi(power)), power_of_ten(power))).collect()
    }
}

/// `10⁻³`, or `1` and `10`.
fn power_of_ten(power: i32) -> String {
    if (0..2).contains(&power) {
        return 10_i32.pow(power as u32).to_string();
    }
    let digits = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let digit = |c: char| c.to_digit(10).map_or('⁻', |d| digits[d as usize]);
    format!("10{}", power.to_string().chars().map(digit).collect::<String>())
}

/// A bar with a name and a value beside it.
pub(super) struct Bar {
    pub(super) name: String,
    /// In 0..=1.
    pub(super) share: f64,
    pub(super) value: String,
}

/// Bars to read from left to right.
pub(super) fn bars(bars: &[Bar], class: &str) -> Markup {
    html! {
        div.bars {
            @for bar in bars {
                div.row {
                    span.name { (bar.name) }
                    svg.bar aria-hidden="true" {
                        rect.track width="100%" height="100%" rx="3" {}
                        rect.(class) width=(percent(bar.share.clamp(0.0, 1.0))) height="100%" rx="3" {}
                    }
                    span.value { (bar.value) }
                }
            }
        }
    }
}

/// The class of the series with this index: a colour.
pub(super) fn series(index: usize) -> String {
    format!("s{}", index % SERIES)
}

/// Colours before they repeat.
pub(super) const SERIES: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_hold_the_largest() {
        assert_eq!(ticks(0.9), [0.0, 0.25, 0.5, 0.75, 1.0]);
        assert_eq!(ticks(7.3), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(ticks(0.0), [0.0, 1.0]);
        for max in [1e-9, 0.3, 1.0, 12.0, 1e12] {
            let ticks = ticks(max);
            assert!(ticks.last().is_some_and(|last| *last >= max) && ticks.len() <= 6, "{ticks:?}");
        }
    }

    #[test]
    fn decades_hold_all_numbers_and_have_few_labels() {
        let axis = Decades::around([0.003, 40.0, 0.0, -1.0].into_iter()).unwrap();
        assert_eq!((axis.low, axis.high), (-3, 2));
        assert_eq!(axis.labels()[0], (0.0, "10⁻³".to_owned()));
        assert!((axis.place(1.0) - 0.6).abs() < 1e-12);
        assert!(Decades::around([0.0].into_iter()).is_none());
        let wide = Decades::around([1e-300, 1e300].into_iter()).unwrap();
        assert!(wide.labels().len() <= 7);
    }

    #[test]
    fn few_labels_are_left_and_fewer_of_long_ones() {
        for (n, most) in [(1, 1), (10, 12), (12, 12), (80, 12), (5000, 7)] {
            let labels: Vec<_> = (0..n).map(|at| (0.0, at.to_string())).collect();
            assert!((1..=most).contains(&thinned(&labels, 292.0).count()), "{n}");
        }
        let long: Vec<_> = (0..9).map(|at| (0.0, format!("encoder.layers.{at}"))).collect();
        assert!(thinned(&long, 292.0).count() <= 2);
    }
}
