//! What changed between two checkpoints: by meaning, so that a layer is the same in any format.

mod layer;

use std::collections::BTreeMap;

use gptq_pack::{CheckpointConfig, names::Part};
use rayon::prelude::*;
use serde::Serialize;
use serde_json::Value;

pub use layer::LayerDiff;

use crate::{
    Checkpoint, Error, Progress, TensorView, quantization_config,
    quantized::{is_packed, unexplained},
    zero_points,
};

/// The differences.
#[derive(Clone, Debug, Serialize)]
pub struct Diff {
    /// Nothing differs: no key, no tensor, no number, no format.
    pub equal: bool,
    /// Both stand for the same weights, whatever they are stored as.
    pub same_weights: bool,
    /// Keys of `config.json`, nested ones with dots.
    pub config: Vec<KeyChange>,
    /// Tensors that only the first has. A packed layer counts as its weight and its bias.
    pub only_in_a: Vec<String>,
    /// Tensors that only the second has.
    pub only_in_b: Vec<String>,
    /// Plain tensors that both have and that differ.
    pub tensors: Vec<TensorDiff>,
    /// Plain tensors that both have, byte by byte.
    pub tensors_equal: usize,
    /// Linears that are packed in either, the most different first.
    pub layers: Vec<LayerDiff>,
    /// Contradictions inside one of the folders, which are compared as declared.
    pub notices: Vec<String>,
}

/// A key with two values; null where it is absent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeyChange {
    /// The key.
    pub key: String,
    /// In the first folder.
    pub a: Value,
    /// In the second.
    pub b: Value,
}

/// A plain tensor that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorDiff {
    /// Its name.
    pub name: String,
    /// Type and shape in the first folder.
    pub a: String,
    /// The same in the second.
    pub b: String,
    /// Largest difference, as a share of the first's root mean square; null for tensors that are
    /// no floats or of other shapes.
    pub max: Option<f64>,
    /// Root mean square of the differences, as a share of the same.
    pub rms: Option<f64>,
}

/// Compares two folders. Linears that are packed in either are compared as what they stand for,
/// with codes and grids one by one where both have them; other tensors byte by byte.
///
/// Memory: one layer per thread, decoded.
///
/// # Errors
/// Whatever is wrong with either folder. Differences are no error, and neither are zero points
/// stored by another convention than declared: those are notices.
pub fn diff(a: &Checkpoint, b: &Checkpoint, progress: &mut dyn Progress) -> Result<Diff, Error> {
    let (a, b) = (Side::of(a)?, Side::of(b)?);
    let only = |these: &Side<'_>, those: &Side<'_>| -> Vec<String> {
        these.items.keys().filter(|name| !those.items.contains_key(*name)).cloned().collect()
    };
    let both: Vec<(&String, Item<'_>, Item<'_>)> = a
        .items
        .iter()
        .filter_map(|(name, item)| Some((name, item.clone(), b.items.get(name)?.clone())))
        .collect();
    let mut out = Diff {
        equal: false,
        same_weights: false,
        config: config_changes(a.checkpoint.config(), b.checkpoint.config()),
        only_in_a: only(&a, &b),
        only_in_b: only(&b, &a),
        tensors: Vec::new(),
        tensors_equal: 0,
        layers: Vec::new(),
        notices: Vec::new(),
    };
    for side in [&a, &b] {
        let found = side.config.as_ref().and_then(|c| zero_points::zero_points(side.checkpoint, c));
        let contradiction = found.and_then(|found| found.contradiction());
        let folder = side.checkpoint.dir().display();
        out.notices.extend(contradiction.map(|message| format!("{folder}: {message}")));
    }
    // In batches, because progress is told by this thread.
    let (mut done, all) = (0, both.len().max(1) as f64);
    for batch in both.chunks(4 * rayon::current_num_threads()) {
        progress.advance(done as f64 / all, batch[0].0);
        let compared: Vec<Compared> = batch
            .par_iter()
            .map(|(name, in_a, in_b)| compare(name, (&a, in_a), (&b, in_b)))
            .collect::<Result<_, _>>()?;
        done += batch.len();
        for compared in compared {
            match compared {
                Compared::Equal => out.tensors_equal += 1,
                Compared::Tensor(tensor) => out.tensors.push(tensor),
                Compared::Layer(layer) => out.layers.push(layer),
            }
        }
    }
    progress.advance(1.0, "");
    let size = |layer: &LayerDiff| layer.rms.unwrap_or(f64::INFINITY);
    out.layers.sort_by(|x, y| size(y).total_cmp(&size(x)));
    let complete = out.only_in_a.is_empty() && out.only_in_b.is_empty() && out.tensors.is_empty();
    out.same_weights = complete && out.layers.iter().all(|layer| layer.max == Some(0.0));
    out.equal = complete && out.config.is_empty() && out.layers.iter().all(|layer| layer.equal);
    Ok(out)
}

/// One of the folders.
struct Side<'a> {
    checkpoint: &'a Checkpoint,
    config: Option<CheckpointConfig>,
    items: BTreeMap<String, Item<'a>>,
}

#[derive(Clone)]
enum Item<'a> {
    Plain(TensorView<'a>),
    /// The packed layer of this name, under the name of the weight it stands for.
    Packed(&'a str),
}

impl<'a> Side<'a> {
    fn of(checkpoint: &'a Checkpoint) -> Result<Self, Error> {
        let config = quantization_config(checkpoint)?;
        if config.is_none() {
            unexplained(checkpoint, |_| true)?;
        }
        let mut items = BTreeMap::new();
        for tensor in checkpoint.tensors() {
            let format = config.as_ref().map(|config| config.format);
            let module = format.and_then(|format| format.module_of(tensor.name));
            let packed =
                format.zip(module).filter(|(f, (name, _))| is_packed(checkpoint, *f, name));
            match packed {
                None | Some((_, (_, Part::Bias))) => {
                    items.insert(tensor.name.to_owned(), Item::Plain(tensor));
                }
                Some((_, (name, _))) => {
                    items.insert(format!("{name}.weight"), Item::Packed(name));
                }
            }
        }
        Ok(Self { checkpoint, config, items })
    }
}

enum Compared {
    Equal,
    Tensor(TensorDiff),
    Layer(LayerDiff),
}

fn compare(
    name: &str,
    a: (&Side<'_>, &Item<'_>),
    b: (&Side<'_>, &Item<'_>),
) -> Result<Compared, Error> {
    match (a.1, b.1) {
        (Item::Plain(a), Item::Plain(b)) => Ok(compare_tensors(a, b)),
        _ => {
            let side = |(side, item): (&Side<'_>, &Item<'_>)| {
                layer::Weights::read(side.checkpoint, side.config.as_ref(), name, item.is_packed())
            };
            let name = name.strip_suffix(".weight").unwrap_or(name);
            Ok(Compared::Layer(LayerDiff::of(name, &side(a)?, &side(b)?)))
        }
    }
}

impl Item<'_> {
    fn is_packed(&self) -> Option<&str> {
        match self {
            Item::Packed(name) => Some(name),
            Item::Plain(_) => None,
        }
    }
}

fn compare_tensors(a: &TensorView<'_>, b: &TensorView<'_>) -> Compared {
    let same_kind = a.dtype == b.dtype && a.shape == b.shape;
    if same_kind && a.bytes == b.bytes {
        return Compared::Equal;
    }
    let kind = |t: &TensorView<'_>| format!("{:?} {:?}", t.dtype, t.shape);
    let floats = a.shape == b.shape && a.check_floats().is_ok() && b.check_floats().is_ok();
    let (max, rms) = match floats {
        true => {
            let pairs = a.floats().zip(b.floats());
            let (max, rms) = relative_difference(pairs);
            (Some(max), Some(rms))
        }
        false => (None, None),
    };
    Compared::Tensor(TensorDiff { name: a.name.to_owned(), a: kind(a), b: kind(b), max, rms })
}

/// Largest and root mean square difference of pairs, as shares of the first ones' root mean square;
/// not as shares where that is 0.
fn relative_difference(pairs: impl Iterator<Item = (f32, f32)>) -> (f64, f64) {
    let (mut count, mut max, mut squares, mut power) = (0usize, 0f64, 0f64, 0f64);
    for (a, b) in pairs {
        let (a, b) = (f64::from(a), f64::from(b));
        let difference = (a - b).abs();
        count += 1;
        // A NaN on either side must not pass for no difference.
        max = if difference.is_nan() { f64::INFINITY } else { max.max(difference) };
        squares += difference * difference;
        power += a * a;
    }
    let n = count.max(1) as f64;
    let unit = match (power / n).sqrt() {
        rms if rms > 0.0 => rms,
        _ => 1.0,
    };
    (max / unit, (squares / n).sqrt() / unit)
}

/// Keys whose values differ, in the order of their names.
fn config_changes(a: &Value, b: &Value) -> Vec<KeyChange> {
    let (mut of_a, mut of_b) = (BTreeMap::new(), BTreeMap::new());
    flatten("", a, &mut of_a);
    flatten("", b, &mut of_b);
    let mut keys: Vec<&String> = of_a.keys().chain(of_b.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let value =
        |of: &BTreeMap<String, &Value>, key| of.get(key).copied().cloned().unwrap_or_default();
    keys.into_iter()
        .map(|key| KeyChange { key: key.clone(), a: value(&of_a, key), b: value(&of_b, key) })
        .filter(|change| change.a != change.b)
        .collect()
}

fn flatten<'v>(prefix: &str, value: &'v Value, out: &mut BTreeMap<String, &'v Value>) {
    match value.as_object().filter(|object| !object.is_empty()) {
        Some(object) => {
            for (key, value) in object {
                let dot = if prefix.is_empty() { "" } else { "." };
                flatten(&format!("{prefix}{dot}{key}"), value, out);
            }
        }
        None => {
            out.insert(prefix.to_owned(), value);
        }
    }
}
