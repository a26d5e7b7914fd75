//! Which linears lose most, and what is expected to help.
//!
//! Two laws for the squared error of rounding, and so, roughly, for the loss:
//! - the step between codes is `range / (2^bits − 1)`: every bit more divides the error by about 4;
//! - `n` weights that share a scale span about `sqrt(2 ln n)` standard deviations: groups of `m`
//!   instead of `n` leave about `ln m / ln n` of the error.

use std::collections::BTreeMap;

use gptq_models::{LayerReport, Report};
use serde::Serialize;
use serde_json::{Value, json};

use super::place::{Place, ratio};

/// Linears that change together, since servers hold them in one matrix: query, key and value; gate
/// and up; all experts of a block.
#[derive(Debug, Serialize)]
pub(crate) struct Unit<'a> {
    /// What its linears have in common, and how they differ.
    pub(crate) name: String,
    pub(crate) layers: Vec<&'a str>,
    pub(crate) bits: u32,
    pub(crate) group_size: i64,
    pub(crate) loss: f64,
    /// What is left of rounding's loss.
    pub(crate) ratio: Option<f64>,
    /// Of the loss of all linears, in 0..=1.
    pub(crate) share: f64,
    pub(crate) helps: Vec<Help>,
    #[serde(skip)]
    rtn: f64,
    /// Bits, loss and, where the tensors say, weights of each linear.
    #[serde(skip)]
    members: Vec<(u32, f64, Option<u64>)>,
    /// Weights and input columns, where the tensors say.
    #[serde(skip)]
    weights: Option<u64>,
    #[serde(skip)]
    columns: Option<usize>,
    #[serde(skip)]
    pattern: String,
}

/// A change of settings and what is expected of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Help {
    /// In words.
    pub(crate) change: String,
    /// Share of the unit's loss that is expected to stay.
    pub(crate) leaves: f64,
    /// Bytes that it costs, where the sizes are known.
    pub(crate) extra_bytes: Option<u64>,
    /// For `--dynamic`.
    pub(crate) rule: Value,
}

/// Summed over all linears that were solved.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Total {
    pub(crate) loss: f64,
    pub(crate) rtn: f64,
}

/// Weights' shapes by linear: output rows and input columns.
pub(crate) type Shapes = BTreeMap<String, (usize, usize)>;

/// The units of a run, largest loss first.
pub(crate) struct Advice<'a> {
    /// `None` if no linear was solved.
    pub(crate) total: Option<Total>,
    pub(crate) units: Vec<Unit<'a>>,
}

impl<'a> Advice<'a> {
    pub(crate) fn new(report: &'a Report, shapes: &Shapes) -> Self {
        let format = report.settings["format"].as_str().unwrap_or("gptq");
        let mut units: BTreeMap<String, Unit<'a>> = BTreeMap::new();
        let mut total: Option<Total> = None;
        for layer in &report.layers {
            let (Some(loss), Some(rtn)) = (layer.loss, layer.rtn_loss) else { continue };
            let sum = total.get_or_insert_default();
            (sum.loss, sum.rtn) = (sum.loss + loss, sum.rtn + rtn);
            let key = Key::of(layer);
            let unit = units.entry(key.id()).or_insert_with(|| Unit::empty(layer));
            unit.add(layer, loss, rtn, shapes);
        }
        let mut units: Vec<Unit<'a>> = units.into_values().collect();
        let all = total.map_or(0.0, |total| total.loss);
        for unit in &mut units {
            let share = unit.loss / all;
            unit.share = if share.is_finite() { share } else { 0.0 };
            unit.ratio = ratio(unit.loss, unit.rtn);
            unit.call();
            unit.helps = unit.changes(format);
        }
        units.sort_by(|a, b| b.loss.total_cmp(&a.loss).then_with(|| a.name.cmp(&b.name)));
        Self { total, units }
    }

    /// The first change of each of the first `n` units in one `--dynamic`, and the share of the
    /// total loss that is expected to stay.
    pub(crate) fn together(&self, n: usize) -> Option<(Value, f64)> {
        let firsts = self.units.iter().take(n).filter_map(|u| Some((u.share, u.helps.first()?)));
        let (mut rules, mut stays) = (Vec::new(), 1.0);
        for (share, help) in firsts {
            stays -= share * (1.0 - help.leaves);
            rules.extend(help.rule.as_object().cloned().unwrap_or_default());
        }
        // Single modules first: compressed-tensors has no other order.
        rules.sort_by_key(|(rule, _)| (rule.contains('(') || !rule.ends_with('$'), rule.clone()));
        (!rules.is_empty()).then_some((rules.into_iter().collect(), stays))
    }
}

/// Projections that servers hold in one matrix.
const FUSED: &[&[&str]] =
    &[&["q_proj", "k_proj", "v_proj"], &["gate_proj", "up_proj"], &["w1", "w3"]];

/// What the linears of a unit have in common.
enum Key<'a> {
    /// The name up to an expert's number.
    Experts(&'a str),
    /// The name up to its last part, and the parts it may be.
    Fused(&'a str, usize),
    Alone(&'a str),
}

impl<'a> Key<'a> {
    fn of(layer: &'a LayerReport) -> Self {
        let name = layer.name.as_str();
        if let Some(expert) = Place::of(name).expert
            && let Some((prefix, _)) = name.rsplit_once(&format!(".{expert}."))
        {
            return Key::Experts(prefix);
        }
        let Some((prefix, last)) = name.rsplit_once('.') else { return Key::Alone(name) };
        match FUSED.iter().position(|set| set.contains(&last)) {
            Some(set) => Key::Fused(prefix, set),
            None => Key::Alone(name),
        }
    }

    fn id(&self) -> String {
        match self {
            Key::Experts(prefix) => format!("{prefix}.*"),
            Key::Fused(prefix, set) => format!("{prefix}.{set}*"),
            Key::Alone(name) => (*name).to_owned(),
        }
    }
}

impl<'a> Unit<'a> {
    fn empty(layer: &LayerReport) -> Self {
        Self {
            name: String::new(),
            layers: Vec::new(),
            bits: layer.bits,
            group_size: layer.group_size,
            loss: 0.0,
            ratio: None,
            share: 0.0,
            helps: Vec::new(),
            rtn: 0.0,
            members: Vec::new(),
            weights: Some(0),
            columns: Some(0),
            pattern: String::new(),
        }
    }

    fn add(&mut self, layer: &'a LayerReport, loss: f64, rtn: f64, shapes: &Shapes) {
        self.layers.push(&layer.name);
        // The weakest of its linears is what a change must better.
        self.bits = self.bits.min(layer.bits);
        self.loss += loss;
        self.rtn += rtn;
        let shape = shapes.get(&layer.name);
        let size = shape.map(|(rows, columns)| *rows as u64 * *columns as u64);
        self.members.push((layer.bits, loss, size));
        self.weights = self.weights.zip(size).map(|(sum, size)| sum.saturating_add(size));
        self.columns = self.columns.zip(shape).map(|(widest, (_, n))| widest.max(*n));
    }

    /// Gives it a name and the pattern that finds it and nothing else.
    fn call(&mut self) {
        let Some(&first) = self.layers.first() else { return };
        let layer = LayerReport { name: first.to_owned(), ..LayerReport::default() };
        (self.name, self.pattern) = match Key::of(&layer) {
            Key::Experts(prefix) => (
                format!("{prefix}: {} linears of experts", self.layers.len()),
                format!(r"{}\.", escaped(prefix)),
            ),
            Key::Fused(prefix, _) if self.layers.len() > 1 => {
                let last = |name: &&'a str| name.rsplit('.').next().unwrap_or(name);
                let parts: Vec<&str> = self.layers.iter().map(last).collect();
                let (words, choice) = (parts.join(", "), parts.join("|"));
                (format!("{prefix}: {words}"), format!(r"{}\.({choice})$", escaped(prefix)))
            }
            _ => (first.to_owned(), format!("{}$", escaped(first))),
        };
    }

    /// What would help, the strongest that stays packed first.
    fn changes(&self, format: &str) -> Vec<Help> {
        let mut out = Vec::new();
        let (bits, group) = (self.bits, self.group_size);
        let widths: &[u32] = match format {
            // One scheme for all layers of a folder.
            "awq" => &[],
            "marlin" | "compressed-tensors" => &[4, 8],
            _ => &[2, 3, 4, 8],
        };
        let per_group = |bits: u32, group: f64| f64::from(16 + bits) / group;
        let bytes = |bits: f64| self.weights.map(|weights| (weights as f64 * bits / 8.0) as u64);
        // Where projections differ, as those of experts may, none gets fewer than it has.
        let most = self.members.iter().map(|member| member.0).max().unwrap_or(bits);
        if let Some(more) = widths.iter().find(|width| **width > bits && **width >= most) {
            let added = |has: u32| more.saturating_sub(has);
            let left = |(has, loss, _): &(u32, f64, _)| loss * 0.25_f64.powi(added(*has) as i32);
            let cost = |(has, _, size): &(u32, f64, Option<u64>)| {
                size.map(|size| size.saturating_mul(u64::from(added(*has))) / 8)
            };
            out.push(Help {
                change: format!("{more} bits"),
                leaves: ratio(self.members.iter().map(left).sum(), self.loss).unwrap_or(0.0),
                extra_bytes: self.members.iter().map(cost).sum(),
                rule: json!({ self.pattern.as_str(): {"bits": more} }),
            });
        }
        // Whole rows are groups as wide as the matrix.
        let wide = if group == -1 { self.columns.unwrap_or(0) as f64 } else { group as f64 };
        let smaller = if group == -1 { 128 } else { 32 };
        if wide > f64::from(smaller) && !widths.is_empty() {
            let more = per_group(bits, f64::from(smaller)) - per_group(bits, wide);
            out.push(Help {
                change: format!("groups of {smaller}"),
                leaves: f64::from(smaller).ln() / wide.ln(),
                extra_bytes: bytes(more),
                rule: json!({ self.pattern.as_str(): {"group_size": smaller} }),
            });
        }
        let packed = f64::from(bits) + if wide > 0.0 { per_group(bits, wide) } else { 0.0 };
        // A list of names is all that AWQ's config holds.
        let names = || self.layers.iter().map(|name| format!("-:{}$", escaped(name)));
        let patterns = || std::iter::once(format!("-:{}", self.pattern));
        let skips: Vec<String> =
            if widths.is_empty() { names().collect() } else { patterns().collect() };
        out.push(Help {
            change: "left dense".into(),
            leaves: 0.0,
            extra_bytes: bytes((16.0 - packed).max(0.0)),
            rule: skips.into_iter().map(|rule| (rule, json!({}))).collect(),
        });
        out
    }
}

/// A regular expression for just this text.
fn escaped(text: &str) -> String {
    let escaped = |c| [r"\.+*?()|[]{}^$".contains(c).then_some('\\'), Some(c)];
    text.chars().flat_map(|c| escaped(c).into_iter().flatten()).collect()
}

#[cfg(test)]
mod tests;
