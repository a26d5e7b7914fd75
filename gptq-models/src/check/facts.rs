//! What an engine sees of a folder: the matrices it multiplies by, and what is said of them.

use gptq_core::GroupSize;
use gptq_pack::{CheckpointConfig, Dtype, Format, Resolved, Scheme, Width, names::Part};
use serde_json::Value;

use super::layout::{self, Group, Role};
use crate::{
    Architecture, Checkpoint, Error, QuantizeOptions,
    graph::{LinearPlace, Stored},
    plan::Plan,
    quantized::{StoredLayer, is_packed, pack_dtype, packed_names},
};

/// A folder, written or planned, as rules look at it. Whatever all blocks share is there once.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) format: Format,
    /// Keys of `quantization_config` in `config.json`.
    pub(crate) keys: Vec<String>,
    /// The scheme of layers that no rule names.
    pub(crate) base: Scheme,
    /// Heads of queries, and of keys and values.
    pub(crate) heads: Option<(usize, usize)>,
    pub(crate) matrices: Vec<Matrix>,
    /// Devices that a matrix is cut for.
    pub(crate) tp: usize,
    /// Whether the family is known, and with it the way matrices are cut.
    pub(crate) known: bool,
}

/// What many engines multiply by as one: a linear, or several of one input, or those of all experts
/// of a block.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Matrix {
    pub(crate) split: Split,
    pub(crate) expert: bool,
    pub(crate) head: bool,
    /// One tensor of all experts in the source, and in transformers 5.
    pub(crate) one_tensor: bool,
    /// Layers that share inputs share their group indices.
    pub(crate) one_order: bool,
    /// The name that vLLM and SGLang look up in `dynamic`, and what it finds there.
    pub(crate) looked_up: Option<(String, Option<Scheme>)>,
    pub(crate) layers: Vec<Layer>,
}

/// How several devices share a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    /// Each has some outputs.
    Outputs,
    /// Each has some inputs.
    Inputs,
    /// Each has all of it.
    Whole,
}

/// Layers of a matrix that differ in nothing but their names.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    /// The first of them, whole.
    pub(crate) name: String,
    /// The name without numbers.
    pub(crate) short: String,
    /// How many, over all blocks.
    pub(crate) count: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// Devices beyond so many hold copies of the outputs, as of keys and values.
    pub(crate) pieces: usize,
    /// `None` if it is dense.
    pub(crate) scheme: Option<Scheme>,
    /// Tensors of the format that the file lacks.
    pub(crate) missing: Vec<Part>,
    pub(crate) scales: Dtype,
    /// Some group index is not `input / group_size`.
    pub(crate) scattered: bool,
}

impl PartialEq for Layer {
    /// But for names and numbers.
    fn eq(&self, other: &Self) -> bool {
        let key = |l: &Self| (l.inputs, l.outputs, l.pieces, l.scheme, l.scales, l.scattered);
        self.short == other.short && key(self) == key(other) && self.missing == other.missing
    }
}

/// What a file holds, or will hold, of one layer.
struct Held<'a> {
    scheme: Option<Scheme>,
    missing: Vec<Part>,
    scales: Dtype,
    scattered: bool,
    /// Stored group indices.
    order: Option<&'a [u8]>,
}

impl Facts {
    /// Of a folder that is there. Cost: its headers, and one pass over group indices.
    pub(crate) fn of_folder(
        checkpoint: &Checkpoint,
        config: &CheckpointConfig,
        tp: usize,
    ) -> Result<Self, Error> {
        let arch = Architecture::of(checkpoint).ok();
        let mut facts = Self::bare(config, checkpoint.config().get("quantization_config"), tp);
        let groups = match &arch {
            Some(arch) => {
                facts.heads = layout::heads(arch);
                facts.known = true;
                let head = arch.head();
                let head = is_packed(checkpoint, config.format, &head.name).then_some(head);
                layout::groups(arch, head)
            }
            None => {
                let place = |name: &str| {
                    let layer = StoredLayer::named(checkpoint, config, name)?;
                    Ok(layout::alone(LinearPlace {
                        name: name.to_owned(),
                        out_features: layer.spec.out_features,
                        in_features: layer.spec.in_features,
                        bias: false,
                        stored: Stored::Plain,
                    }))
                };
                let names = packed_names(checkpoint, config.format);
                names.into_iter().map(place).collect::<Result<_, Error>>()?
            }
        };
        facts.collect(config, groups, |place| held(checkpoint, config, place))?;
        Ok(facts)
    }

    /// Of what a run will write.
    pub(crate) fn of_plan(
        plan: &Plan,
        arch: Option<&Architecture>,
        options: &QuantizeOptions,
        tp: usize,
    ) -> Result<Self, Error> {
        let failed = |source| Error::QuantizationConfig { file: "the result".into(), source };
        let config = CheckpointConfig::from_json(&plan.quantization).map_err(failed)?;
        let mut facts = Self::bare(&config, Some(&plan.quantization), tp);
        let groups = match arch {
            Some(arch) => {
                facts.heads = layout::heads(arch);
                facts.known = true;
                layout::groups(arch, plan.head.as_ref().map(|head| &head.place))
            }
            None => plan.linears().map(|l| layout::alone(l.place.clone())).collect(),
        };
        let settings: std::collections::HashMap<&str, _> =
            plan.linears().map(|l| (l.place.name.as_str(), l.config)).collect();
        facts.collect(&config, groups, |place| {
            let settings = settings.get(place.name.as_str()).copied().flatten();
            let spec = settings.map(|config| options.spec(place, &config));
            let scheme = spec.map(|_| scheme(&config, &place.name)).transpose()?;
            Ok(Held {
                scheme,
                missing: Vec::new(),
                scales: Dtype::F16,
                scattered: spec.is_some_and(|spec| spec.scattered),
                order: None,
            })
        })?;
        Ok(facts)
    }

    fn bare(config: &CheckpointConfig, stated: Option<&Value>, tp: usize) -> Self {
        let keys = stated.and_then(Value::as_object).into_iter().flatten();
        let keys = keys.filter(|(_, value)| !value.is_null()).map(|(key, _)| key.to_lowercase());
        Self {
            format: config.format,
            keys: keys.collect(),
            base: config.base(),
            heads: None,
            matrices: Vec::new(),
            tp,
            known: false,
        }
    }

    fn collect<'a>(
        &mut self,
        config: &CheckpointConfig,
        groups: Vec<Group>,
        held: impl Fn(&LinearPlace) -> Result<Held<'a>, Error>,
    ) -> Result<(), Error> {
        for group in groups {
            let mut matrix = Matrix {
                split: group.split,
                expert: group.expert,
                head: group.head,
                one_tensor: group.one_tensor,
                one_order: true,
                looked_up: None,
                layers: Vec::new(),
            };
            // Of an expert, or of all linears of a group that has none.
            let mut order: Option<(usize, Option<&[u8]>)> = None;
            for Role { place, pieces, of } in &group.roles {
                let found = held(place)?;
                match order {
                    Some((other, bytes)) if other == *of => {
                        matrix.one_order &= bytes == found.order
                    }
                    _ => order = Some((*of, found.order)),
                }
                let layer = Layer {
                    name: place.name.clone(),
                    short: layout::short(&place.name),
                    count: 1,
                    inputs: place.in_features,
                    outputs: place.out_features,
                    pieces: *pieces,
                    scheme: found.scheme,
                    missing: found.missing,
                    scales: found.scales,
                    scattered: found.scattered,
                };
                match matrix.layers.iter_mut().find(|other| **other == layer) {
                    Some(other) => other.count += 1,
                    None => matrix.layers.push(layer),
                }
            }
            if let Some(name) = group.looked_up {
                let scheme = match resolve(config, &name)? {
                    Resolved::Skip => None,
                    _ => Some(scheme(config, &name)?),
                };
                matrix.looked_up = Some((layout::short(&name), scheme));
            }
            self.add(matrix);
        }
        Ok(())
    }

    /// Counts a matrix to the one that it is like.
    pub(crate) fn add(&mut self, matrix: Matrix) {
        match self.matrices.iter_mut().find(|other| **other == matrix) {
            Some(other) => {
                for (layer, more) in other.layers.iter_mut().zip(matrix.layers) {
                    layer.count += more.count;
                }
            }
            None => self.matrices.push(matrix),
        }
    }
}

impl Layer {
    /// Inputs that one of `tp` devices has, and whether they can be cut so.
    pub(crate) fn inputs_of(&self, split: Split, tp: usize) -> Option<usize> {
        let parts = if split == Split::Inputs { tp } else { 1 };
        self.inputs.is_multiple_of(parts).then_some(self.inputs / parts)
    }

    /// Outputs that one of `tp` devices has.
    pub(crate) fn outputs_of(&self, split: Split, tp: usize) -> Option<usize> {
        let parts = if split == Split::Outputs { tp.min(self.pieces.max(1)) } else { 1 };
        self.outputs.is_multiple_of(parts).then_some(self.outputs / parts)
    }
}

fn held<'a>(
    checkpoint: &'a Checkpoint,
    config: &CheckpointConfig,
    place: &LinearPlace,
) -> Result<Held<'a>, Error> {
    let format = config.format;
    if !is_packed(checkpoint, format, &place.name) {
        let (missing, scales) = (Vec::new(), Dtype::F16);
        return Ok(Held { scheme: None, missing, scales, scattered: false, order: None });
    }
    let scheme = scheme(config, &place.name)?;
    let get = |part: Part| checkpoint.get(&part.of(&place.name));
    let missing = format.all_parts().into_iter().filter(|&part| part != Part::Bias);
    let missing = missing.filter(|&part| get(part).is_none()).collect();
    let scales = [Part::Scales, Part::S, Part::WeightScale].into_iter().find_map(get);
    let order = [Part::GIdx, Part::WeightGIdx].into_iter().find_map(get).map(|tensor| tensor.bytes);
    Ok(Held {
        scheme: Some(scheme),
        missing,
        scales: scales.map_or(Dtype::F16, |tensor| pack_dtype(tensor.dtype)),
        scattered: order.is_some_and(|order| scattered(order, place, scheme.group_size)),
        order,
    })
}

/// Whether 32- or 64-bit group indices are others than `i / group_size`.
fn scattered(bytes: &[u8], place: &LinearPlace, group_size: GroupSize) -> bool {
    let inputs = place.in_features.max(1);
    let columns = group_size.columns(inputs).max(1);
    let stride = (bytes.len() / inputs).max(1);
    bytes.chunks_exact(stride).enumerate().any(|(i, index)| {
        let index = index.first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        index as usize != i / columns
    })
}

fn resolve<'a>(config: &'a CheckpointConfig, name: &str) -> Result<Resolved<'a>, Error> {
    config.dynamic.resolve(name).map_err(|source| Error::Packed { layer: name.to_owned(), source })
}

/// The scheme of a layer that is packed, whatever rules say of skipping it.
fn scheme(config: &CheckpointConfig, name: &str) -> Result<Scheme, Error> {
    let found = config.scheme(name);
    let found = found.map_err(|source| Error::Packed { layer: name.to_owned(), source })?;
    Ok(found.unwrap_or(config.base()))
}

/// A scheme's grid in words: `4-bit symmetric`.
pub(crate) fn grid(bits: Width, sym: bool) -> String {
    format!("{}-bit {}", bits.get(), if sym { "symmetric" } else { "asymmetric" })
}
