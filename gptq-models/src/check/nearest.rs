//! The nearest settings that an engine would load.

use std::fmt;

use gptq_core::{Bits, GroupSize};
use gptq_pack::{Dtype, Format, Scheme};

use super::{
    Severity,
    engine::Engine,
    facts::{Facts, Layer, Matrix},
    law::{Law, Rule},
    rules::RULES,
};

/// A setting to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// How layers are stored.
    Format(Format),
    /// Width of every layer's codes.
    Bits(u32),
    /// Symmetry of every layer's grid.
    Sym(bool),
    /// Inputs per group, in every layer; -1 for whole rows.
    GroupSize(i64),
    /// No groups by activation order.
    NoDescAct,
    /// No rules by module: one scheme for all.
    NoDynamic,
    /// The head stays as it is.
    NoLmHead,
    /// Layers to leave dense, by their names without numbers.
    Skip(Vec<String>),
    /// Devices that share a matrix.
    Tp(usize),
    /// Configs and tensors as `gptq convert` writes them.
    Rewrite,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Setting::Format(format) => write!(f, "format {format}"),
            Setting::Bits(bits) => write!(f, "bits {bits}"),
            Setting::Sym(sym) => write!(f, "sym {sym}"),
            Setting::GroupSize(size) => write!(f, "group_size {size}"),
            Setting::NoDescAct => f.write_str("desc_act false"),
            Setting::NoDynamic => f.write_str("no dynamic rules"),
            Setting::NoLmHead => f.write_str("lm_head false"),
            Setting::Skip(names) => write!(f, "skip {} by a dynamic rule", names.join(", ")),
            Setting::Tp(tp) => write!(f, "tp {tp}"),
            Setting::Rewrite => f.write_str("written again by gptq convert"),
        }
    }
}

/// What was found.
pub(crate) struct Nearest {
    pub(crate) settings: Vec<Setting>,
    /// Rules that refuse even so.
    pub(crate) left: Vec<&'static str>,
}

/// Group sizes that some engine takes.
const GROUP_SIZES: [i64; 7] = [-1, 32, 64, 128, 256, 512, 1024];

/// Keys that everything written here has.
const KEYS: [&str; 5] = ["quant_method", "bits", "group_size", "desc_act", "sym"];

/// More settings than this are not changed together: the search would take seconds.
const MOST: usize = 4;

/// The settings that fewest rules refuse; of those, the ones that change least.
///
/// Combinations of up to four settings are tried, in the order of what it changes, until one is not refused. Cost: some
/// hundred to some thousand evaluations of the rules, which do not depend on the number of blocks.
pub(crate) fn nearest(facts: &Facts, engine: Engine) -> Nearest {
    let rules: Vec<&Rule> = RULES
        .iter()
        .filter(|rule| rule.engine == engine && rule.severity == Severity::Refuses)
        .collect();
    let left = |facts: &Facts| -> Vec<&'static str> {
        let refused = rules.iter().filter(|rule| !rule.breaches(facts).is_empty());
        let mut names: Vec<&str> = refused.map(|rule| rule.name).collect();
        names.dedup();
        names
    };
    let mut best = Nearest { settings: Vec::new(), left: left(facts) };
    for settings in candidates(facts, engine) {
        if best.left.is_empty() {
            break;
        }
        let left = left(&facts.with(&settings));
        if left.len() < best.left.len() {
            best = Nearest { settings, left };
        }
    }
    if !best.left.is_empty() {
        // What no setting cures may stay dense.
        let changed = facts.with(&best.settings);
        let mut names: Vec<String> = Vec::new();
        for rule in rules.iter().filter(|rule| by_layer(rule)) {
            for layer in rule.breaches(&changed).into_iter().filter_map(|breach| breach.layer) {
                let of = |m: &&Matrix| m.layers.iter().any(|l| l.name == layer);
                let matrix = changed.matrices.iter().find(of);
                names.extend(matrix.iter().flat_map(|m| &m.layers).map(|l| l.short.clone()));
            }
        }
        names.sort();
        names.dedup();
        let all = changed.matrices.iter().flat_map(|m| &m.layers);
        let all = all.filter(|l| l.scheme.is_some()).all(|l| names.contains(&l.short));
        if !names.is_empty() && !all {
            let mut settings = best.settings.clone();
            settings.push(Setting::Skip(names));
            let left = left(&facts.with(&settings));
            if left.len() < best.left.len() {
                best = Nearest { settings, left };
            }
        }
    }
    best
}

/// Whether a layer that is dense breaks it less.
fn by_layer(rule: &Rule) -> bool {
    !matches!(rule.law, Law::NoneDense(_) | Law::Shares)
}

/// Combinations of settings with what they change, the least first.
fn candidates(facts: &Facts, engine: Engine) -> Vec<Vec<Setting>> {
    let Scheme { bits, group_size, sym, .. } = facts.base;
    let (bits, group) = (bits.get(), group_size.to_file());
    let layers = || facts.matrices.iter().flat_map(|m| &m.layers);
    let schemes = || layers().filter_map(|layer| layer.scheme);
    let mut axes: Vec<Vec<(u32, Option<Setting>)>> = Vec::new();
    let mut axis = |choices: Vec<(u32, Setting)>| {
        let unchanged = std::iter::once((0, None));
        let changed = choices.into_iter().map(|(cost, setting)| (cost, Some(setting)));
        axes.push(unchanged.chain(changed).collect());
    };
    let whole = |l: &Layer| l.missing.is_empty() && l.scales == Dtype::F16;
    if !layers().all(whole) || KEYS.iter().any(|key| !facts.keys.iter().any(|k| k == key)) {
        axis(vec![(8, Setting::Rewrite)]);
    }
    let widths = [4, 8, 3, 2].into_iter().filter(|&b| schemes().any(|s| s.bits.get() != b));
    // Wider is nearer than narrower: it costs bytes, not quality.
    axis(
        widths
            .map(|b| (40 + 4 * b.abs_diff(bits) + u32::from(b < bits), Setting::Bits(b)))
            .collect(),
    );
    let sizes = GROUP_SIZES.into_iter().filter(|&g| schemes().any(|s| s.group_size.to_file() != g));
    axis(sizes.map(|g| (20 + distance(g, group), Setting::GroupSize(g))).collect());
    if schemes().any(|s| s.sym != schemes().next().is_none_or(|first| first.sym)) || !sym {
        axis(vec![(30, Setting::Sym(true))]);
    }
    if schemes().any(|s| s.desc_act) || layers().any(|layer| layer.scattered) {
        axis(vec![(25, Setting::NoDescAct)]);
    }
    if facts.matrices.iter().any(|m| m.head && m.layers.iter().any(|l| l.scheme.is_some())) {
        axis(vec![(15, Setting::NoLmHead)]);
    }
    let of_blocks = || facts.matrices.iter().filter(|m| !m.head).flat_map(|m| &m.layers);
    if of_blocks().any(|layer| layer.scheme != Some(facts.base)) {
        axis(vec![(16, Setting::NoDynamic)]);
    }
    let formats = [Format::Gptq, Format::GptqV2, Format::CompressedTensors, Format::Awq];
    let formats = formats.into_iter().filter(|&format| format != facts.format).enumerate();
    axis(formats.map(|(i, format)| (50 + i as u32, Setting::Format(format))).collect());
    if engine.shares_matrices() {
        let fewer = (1..facts.tp).rev().filter(|n| facts.tp.is_multiple_of(*n)).enumerate();
        axis(fewer.map(|(i, tp)| (100 + i as u32, Setting::Tp(tp))).collect());
    }

    let mut all: Vec<(u32, Vec<Setting>)> = vec![(0, Vec::new())];
    for axis in axes {
        let extended = all.iter().flat_map(|(cost, settings)| {
            axis.iter().map(move |(more, setting)| {
                (cost + more, settings.iter().chain(setting).cloned().collect::<Vec<_>>())
            })
        });
        all = extended.filter(|(_, settings)| settings.len() <= MOST).collect();
    }
    all.retain(|(_, settings)| writable(facts, settings));
    all.sort_by_key(|(cost, _)| *cost);
    all.into_iter().map(|(_, settings)| settings).skip(1).collect()
}

/// Doublings between two group sizes; whole rows are far from any, and smaller is nearer than
/// larger.
fn distance(a: i64, b: i64) -> u32 {
    match (a > 0, b > 0) {
        (true, true) => 2 * (a.ilog2().abs_diff(b.ilog2())) + u32::from(a > b),
        (false, false) => 0,
        _ => 12,
    }
}

/// Whether this program can write what the settings ask for.
fn writable(facts: &Facts, settings: &[Setting]) -> bool {
    let changed = facts.with(settings);
    let layers = || changed.matrices.iter().flat_map(|m| &m.layers).filter_map(|l| l.scheme);
    match changed.format {
        Format::Awq => layers().all(|s| s.bits.get() == 4 && !s.desc_act),
        Format::Marlin => layers().all(|s| s.bits.get() == 4 && s.sym && !s.desc_act),
        _ => true,
    }
}

impl Facts {
    /// The same folder under other settings.
    pub(crate) fn with(&self, settings: &[Setting]) -> Self {
        let mut out = self.clone();
        // Others change the scheme that it is.
        if settings.contains(&Setting::NoDynamic) {
            let base = out.base;
            for matrix in out.matrices.iter_mut().filter(|matrix| !matrix.head) {
                matrix.layers.iter_mut().for_each(|layer| layer.scheme = Some(base));
                if let Some((_, scheme)) = &mut matrix.looked_up {
                    *scheme = Some(base);
                }
            }
        }
        for setting in settings {
            match setting {
                Setting::Format(format) => {
                    // Whatever is written anew is whole.
                    out.format = *format;
                    out.rewrite();
                }
                Setting::Rewrite => out.rewrite(),
                Setting::Bits(bits) => {
                    if let Ok(bits) = Bits::try_from(*bits) {
                        out.schemes(|scheme| scheme.bits = bits.into());
                    }
                }
                Setting::Sym(sym) => out.schemes(|scheme| scheme.sym = *sym),
                Setting::GroupSize(size) => {
                    if let Ok(size) = GroupSize::from_file(*size) {
                        out.schemes(|scheme| scheme.group_size = size);
                    }
                }
                Setting::NoDescAct => {
                    out.schemes(|scheme| scheme.desc_act = false);
                    for matrix in &mut out.matrices {
                        matrix.one_order = true;
                        matrix.layers.iter_mut().for_each(|layer| layer.scattered = false);
                    }
                }
                Setting::NoLmHead => out.matrices.retain(|matrix| !matrix.head),
                Setting::Skip(names) => {
                    for matrix in &mut out.matrices {
                        for layer in &mut matrix.layers {
                            if names.contains(&layer.short) {
                                layer.scheme = None;
                            }
                        }
                        let first = matrix.layers.first().and_then(|layer| layer.scheme);
                        if let Some((_, scheme)) = &mut matrix.looked_up {
                            *scheme = first;
                        }
                    }
                }
                Setting::Tp(tp) => out.tp = *tp,
                Setting::NoDynamic => {}
            }
        }
        out
    }

    fn schemes(&mut self, change: impl Fn(&mut Scheme)) {
        change(&mut self.base);
        for matrix in &mut self.matrices {
            let layers = matrix.layers.iter_mut().filter_map(|layer| layer.scheme.as_mut());
            let looked_up = matrix.looked_up.iter_mut().filter_map(|(_, s)| s.as_mut());
            layers.chain(looked_up).for_each(&change);
        }
    }

    fn rewrite(&mut self) {
        self.keys.extend(KEYS.map(str::to_owned));
        for layer in self.matrices.iter_mut().flat_map(|matrix| &mut matrix.layers) {
            layer.missing.clear();
            layer.scales = Dtype::F16;
        }
    }
}
