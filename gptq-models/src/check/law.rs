//! The kinds of rules that engines have, and what of a folder breaks one.

use gptq_core::GroupSize;
use gptq_pack::{Dtype, Format, names::Part};

use super::{
    Severity,
    engine::Engine,
    facts::{Facts, Layer, Matrix, Split, grid},
};

/// One rule of one engine, with where and when it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub(crate) engine: Engine,
    /// The setting or property it is about.
    pub(crate) name: &'static str,
    pub(crate) severity: Severity,
    /// All must hold for the rule to apply.
    pub(crate) when: &'static [When],
    pub(crate) law: Law,
    /// What happens where it is broken.
    pub(crate) why: &'static str,
    /// Repository, commit and file, or what else it was taken from.
    pub(crate) source: &'static str,
    /// Day it was read.
    pub(crate) read: &'static str,
}

/// What narrows a rule down.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    Format(&'static [Format]),
    /// The layer has zero points.
    Asymmetric,
    /// The layer's groups follow the activation order.
    Ordered,
    /// Bits, symmetry and groups are those that Marlin's kernels take.
    Marlin,
    /// They are not.
    NotMarlin,
    Expert,
    Head,
    /// Devices have parts of the inputs.
    InputsCut,
    /// One tensor of all experts in transformers 5.
    OneTensor,
}

/// What an engine asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Law {
    /// One of these layouts.
    Formats(&'static [Format]),
    /// These keys under `quantization_config`.
    Keys(&'static [&'static str]),
    /// One of these widths with this symmetry.
    Grids(&'static [(u32, bool)]),
    /// One of these group sizes, -1 for whole rows.
    GroupSizes(&'static [i64]),
    /// A power of two, or whole rows.
    GroupPowers,
    /// No whole rows.
    Grouped,
    /// Inputs of a device are whole groups.
    WholeGroups,
    /// Inputs and outputs of a device fill whole words.
    WholeWords,
    /// Inputs and outputs of a matrix on a device are multiples of one of these pairs.
    Tiles(&'static [(usize, usize)]),
    /// Marlin's tiles of experts: outputs of 128, and inputs of 64 or of a group.
    ExpertTiles,
    /// Both dimensions of a layer are multiples.
    Multiples(usize),
    InputsBelow(usize),
    /// Heads, inputs and outputs can be shared by the devices.
    Shares,
    /// What is joined into one matrix has one scheme.
    OneScheme,
    /// A rule for the parts is one for the joined name too.
    SameUnderJoinedName,
    /// What is joined has one `g_idx`.
    OneOrder,
    /// `desc_act` says so where `g_idx` is scattered.
    OrderSaid,
    /// All packed layers have the config's own scheme.
    BaseScheme,
    /// All have its width.
    BaseBits,
    /// No linear of a block is dense, unless the config has this key.
    NoneDense(Option<&'static str>),
    /// These tensors are there.
    Parts(&'static [Part]),
    Scales(&'static [Dtype]),
    /// The family is known, or there is but one device.
    KnownFamily,
    /// Nothing that the rule applies to.
    Never,
}

/// A way in which a folder breaks a rule.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Breach {
    /// The layer, if it is about one.
    pub(crate) layer: Option<String>,
    /// How many like it.
    pub(crate) layers: usize,
    pub(crate) message: String,
}

impl Rule {
    /// Everything that breaks it.
    pub(crate) fn breaches(&self, facts: &Facts) -> Vec<Breach> {
        let tp = if self.engine.shares_matrices() { facts.tp } else { 1 };
        if let Some(message) = self.of_folder(facts, tp) {
            return vec![Breach { layer: None, layers: 0, message }];
        }
        let mut out = Vec::new();
        for matrix in &facts.matrices {
            let packed = || matrix.layers.iter().filter(|layer| layer.scheme.is_some());
            if let Some(first) = packed().find(|layer| self.applies(facts, matrix, layer, tp))
                && let Some(message) = self.of_matrix(matrix, tp)
            {
                let layers = matrix.layers.iter().map(|layer| layer.count).sum();
                out.push(Breach { layer: Some(first.name.clone()), layers, message });
            }
            for layer in &matrix.layers {
                if self.applies(facts, matrix, layer, tp)
                    && let Some(message) = self.of_layer(facts, matrix, layer, tp)
                {
                    let name = Some(layer.name.clone());
                    out.push(Breach { layer: name, layers: layer.count, message });
                }
            }
        }
        out
    }

    fn applies(&self, facts: &Facts, matrix: &Matrix, layer: &Layer, tp: usize) -> bool {
        self.when.iter().all(|when| match when {
            When::Format(formats) => formats.contains(&facts.format),
            When::Asymmetric => layer.scheme.is_some_and(|s| !s.sym),
            When::Ordered => {
                layer.scheme.is_some_and(|s| s.desc_act && s.group_size != GroupSize::PerChannel)
            }
            When::Marlin => marlin(layer),
            When::NotMarlin => layer.scheme.is_some() && !marlin(layer),
            When::Expert => matrix.expert,
            When::Head => matrix.head,
            When::InputsCut => matrix.split == Split::Inputs && tp > 1,
            When::OneTensor => matrix.one_tensor,
        })
    }

    /// Whether the rule concerns the folder as a whole, and is broken by it.
    fn of_folder(&self, facts: &Facts, tp: usize) -> Option<String> {
        let about = |when: &When| matches!(when, When::Format(f) if !f.contains(&facts.format));
        if self.when.iter().any(about) {
            return None;
        }
        match self.law {
            Law::Formats(formats) if !formats.contains(&facts.format) => {
                let names = list(formats.iter().map(Format::to_string));
                Some(format!("format {}; read are {names}", facts.format))
            }
            Law::Keys(keys) => {
                let missing = keys.iter().filter(|key| !facts.keys.iter().any(|k| k == *key));
                let missing: Vec<String> = missing.map(|key| (*key).to_owned()).collect();
                (!missing.is_empty()).then(|| {
                    let keys = list(missing.into_iter());
                    format!("quantization_config of config.json lacks {keys}")
                })
            }
            Law::Shares => {
                let (heads, kv_heads) = facts.heads?;
                let even = heads.is_multiple_of(tp)
                    && (kv_heads.is_multiple_of(tp) || tp.is_multiple_of(kv_heads));
                (!even).then(|| {
                    format!("{heads} heads, {kv_heads} of keys, cannot be shared by {tp} devices")
                })
            }
            Law::KnownFamily if !facts.known && tp > 1 => {
                Some("the family is unknown here, and so is how matrices are cut".into())
            }
            _ => None,
        }
    }

    fn of_matrix(&self, matrix: &Matrix, tp: usize) -> Option<String> {
        let names = || list(shorts(matrix));
        match self.law {
            Law::Tiles(tiles) => {
                let (inputs, outputs) = whole(matrix, tp)?;
                let fits = |(ins, outs): &(usize, usize)| inputs % ins == 0 && outputs % outs == 0;
                (!tiles.iter().any(fits)).then(|| {
                    let pairs = tiles.iter().map(|(i, o)| format!("{i} inputs and {o} outputs"));
                    let pairs: Vec<String> = pairs.collect();
                    format!(
                        "{}: {inputs} inputs, {outputs} outputs{}; tiles have {}",
                        names(),
                        per_device(tp),
                        pairs.join(", or ")
                    )
                })
            }
            Law::ExpertTiles => {
                let (inputs, outputs) = whole(matrix, tp)?;
                let group = matrix.layers.iter().find_map(|l| l.scheme)?.group_size;
                let wanted = 64.max(group.to_file().max(0) as usize);
                (inputs % wanted != 0 || outputs % 128 != 0).then(|| {
                    format!(
                        "{}: {inputs} inputs, {outputs} outputs{}; tiles have {wanted} inputs and \
                         128 outputs",
                        names(),
                        per_device(tp)
                    )
                })
            }
            Law::OneScheme => {
                let first = matrix.layers.first()?;
                let other = matrix.layers.iter().find(|layer| layer.scheme != first.scheme)?;
                Some(format!(
                    "{} is {}, {} is {}; they become one matrix",
                    first.short,
                    scheme(first),
                    other.short,
                    scheme(other)
                ))
            }
            Law::SameUnderJoinedName => {
                let (name, found) = matrix.looked_up.as_ref()?;
                let first = matrix.layers.first()?;
                let one = matrix.layers.iter().all(|layer| layer.scheme == first.scheme);
                (one && *found != first.scheme).then(|| {
                    let says = Layer { scheme: *found, ..first.clone() };
                    format!(
                        "{} are {}, but dynamic says of {name}: {}",
                        names(),
                        scheme(first),
                        scheme(&says)
                    )
                })
            }
            Law::OneOrder => (!matrix.one_order).then(|| format!("{} differ in g_idx", names())),
            _ => None,
        }
    }

    fn of_layer(&self, facts: &Facts, matrix: &Matrix, layer: &Layer, tp: usize) -> Option<String> {
        let Layer { short, inputs, outputs, .. } = layer;
        if let Law::Shares = self.law {
            let uncut = layer.inputs_of(matrix.split, tp).is_none()
                || layer.outputs_of(matrix.split, tp).is_none();
            return uncut.then(|| {
                let (n, what) = match matrix.split {
                    Split::Inputs => (inputs, "inputs"),
                    _ => (outputs, "outputs"),
                };
                format!("{short}: {n} {what} cannot be shared by {tp} devices")
            });
        }
        let Some(s) = layer.scheme else {
            let Law::NoneDense(key) = self.law else { return None };
            let told = key.is_some_and(|key| facts.keys.iter().any(|k| k == key));
            return (!matrix.head && !told).then(|| format!("{short} is not quantized"));
        };
        let group = s.group_size.to_file();
        let uneven = |held: usize, all: usize, parts: bool| match parts {
            true => format!("{all} / {tp} = {held}"),
            false => all.to_string(),
        };
        match self.law {
            Law::Grids(grids) if !grids.contains(&(s.bits.get(), s.sym)) => {
                let found = grid(s.bits, s.sym);
                let grids = grids.iter().map(|(bits, sym)| {
                    format!("{bits}-bit {}", if *sym { "symmetric" } else { "asymmetric" })
                });
                Some(format!("{found} layers; read are {}", list(grids)))
            }
            Law::GroupSizes(sizes) if !sizes.contains(&group) => {
                let sizes = list(sizes.iter().map(i64::to_string));
                Some(format!("group_size {group}; read are {sizes}"))
            }
            Law::GroupPowers if group > 0 && group & (group - 1) != 0 => {
                Some(format!("group_size {group}, not a power of two"))
            }
            Law::Grouped if group < 0 => Some("group_size -1".into()),
            Law::WholeGroups => {
                let held = layer.inputs_of(matrix.split, tp)?;
                (group > 0 && held % group as usize != 0).then(|| {
                    let cut = matrix.split == Split::Inputs && tp > 1;
                    let held = uneven(held, *inputs, cut);
                    format!("{short}: {held} inputs, not a multiple of group_size {group}")
                })
            }
            Law::WholeWords => {
                let (ins, outs) =
                    (layer.inputs_of(matrix.split, tp)?, layer.outputs_of(matrix.split, tp)?);
                // The least number of codes that fill whole words.
                let codes = 32 >> s.bits.get().trailing_zeros().min(5);
                let odd = |n: usize| !n.is_multiple_of(codes as usize);
                (odd(ins) || odd(outs)).then(|| {
                    format!(
                        "{short}: {ins} inputs, {outs} outputs{}; words hold {codes} codes",
                        per_device(tp)
                    )
                })
            }
            Law::Multiples(of) => (inputs % of != 0 || outputs % of != 0).then(|| {
                format!("{short}: {inputs} inputs, {outputs} outputs, not multiples of {of}")
            }),
            Law::InputsBelow(limit) => (*inputs >= limit)
                .then(|| format!("{short}: {inputs} inputs, {} at most", limit - 1)),
            Law::OrderSaid => (layer.scattered && !s.desc_act)
                .then(|| format!("{short}: g_idx is scattered, but desc_act is false")),
            Law::BaseScheme if !matrix.head && layer.scheme != Some(facts.base) => {
                let base = Layer { scheme: Some(facts.base), ..layer.clone() };
                Some(format!(
                    "{short} is {}, the config's own scheme is {}",
                    scheme(layer),
                    scheme(&base)
                ))
            }
            Law::BaseBits if s.bits != facts.base.bits => Some(format!(
                "{short} has {} bits, the config says {}",
                s.bits.get(),
                facts.base.bits.get()
            )),
            Law::Parts(parts) => {
                let lacks = parts.iter().filter(|part| layer.missing.contains(part));
                let lacks: Vec<String> = lacks.map(Part::to_string).collect();
                (!lacks.is_empty()).then(|| format!("{short} lacks {}", list(lacks.into_iter())))
            }
            Law::Scales(dtypes) if !dtypes.contains(&layer.scales) => {
                let dtypes = list(dtypes.iter().map(Dtype::to_string));
                Some(format!("{short} has {} scales; read are {dtypes}", layer.scales))
            }
            Law::Never if matrix.expert => Some(format!("experts are {}", scheme(layer))),
            Law::Never => Some(format!("layers are {}", scheme(layer))),
            _ => None,
        }
    }
}

/// Whether Marlin's kernels take the codes.
fn marlin(layer: &Layer) -> bool {
    layer.scheme.is_some_and(|s| {
        s.sym
            && matches!(s.bits.get(), 4 | 8)
            && [-1, 32, 64, 128].contains(&s.group_size.to_file())
    })
}

/// Inputs and outputs that a device has of all layers that are joined.
fn whole(matrix: &Matrix, tp: usize) -> Option<(usize, usize)> {
    let inputs = matrix.layers.first()?.inputs_of(matrix.split, tp)?;
    let mut seen: Vec<&str> = Vec::new();
    let mut outputs = 0;
    for layer in &matrix.layers {
        if !seen.contains(&layer.short.as_str()) {
            seen.push(&layer.short);
            outputs += layer.outputs_of(matrix.split, tp)?;
        }
    }
    Some((inputs, outputs))
}

fn shorts(matrix: &Matrix) -> impl Iterator<Item = String> {
    let mut names: Vec<String> = matrix.layers.iter().map(|layer| layer.short.clone()).collect();
    names.dedup();
    names.into_iter()
}

/// `4-bit symmetric in groups of 128`, or `not quantized`.
fn scheme(layer: &Layer) -> String {
    let Some(s) = layer.scheme else { return "not quantized".into() };
    let groups = match s.group_size.to_file() {
        -1 => "in whole rows".to_owned(),
        n => format!("in groups of {n}"),
    };
    let order = if s.desc_act { " with desc_act" } else { "" };
    format!("{} {groups}{order}", grid(s.bits, s.sym))
}

fn per_device(tp: usize) -> String {
    if tp > 1 { format!(" on each of {tp} devices") } else { String::new() }
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}
