//! What a checkpoint holds, as found in its headers and data rather than as declared.

mod shares;

use std::collections::BTreeMap;

use gptq_pack::{CheckpointConfig, Dtype, RawTensor, ZeroPointFormat, names::Part};
use rayon::prelude::*;
use serde::Serialize;
use serde_json::Value;

pub use shares::{DenseShare, Share};
pub(crate) use shares::{is_embedding, is_head, last};

use crate::{
    Checkpoint, Error, quantization_config,
    quantized::{StoredLayer, is_zero, packed_names, stated_config, unexplained},
    zero_points::{self, ZeroPoints},
};

/// The findings.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// `model_type` of `config.json`.
    pub model_type: Option<String>,
    /// How packed layers are stored; null for a dense model.
    pub format: Option<&'static str>,
    /// The quantization config as read, all spellings resolved; null for a dense model.
    pub quantization_config: Value,
    /// The convention of stored zero points, declared and found; null for a dense model and for
    /// formats that have but one.
    pub zero_points: Option<ZeroPoints>,
    /// Packed linears, by name.
    pub layers: Vec<PackedScheme>,
    /// Bits stored per packed weight: codes, scales, zero points and group indices.
    pub bits_per_weight: Option<f64>,
    /// Bytes of packed layers by what they hold: `codes`, `scales`, `zeros`, `g_idx`, `bias`.
    pub packed_bytes: BTreeMap<&'static str, u64>,
    /// Everything else, by element type.
    pub dense: BTreeMap<String, DenseShare>,
    /// Where the bytes are, largest first.
    pub shares: Vec<Share>,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Contradictions between what is declared and what was found, and what readers may stumble
    /// over.
    pub findings: Vec<String>,
}

/// One packed linear.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PackedScheme {
    /// Full name.
    pub name: String,
    /// Output rows.
    pub out_features: usize,
    /// Input columns.
    pub in_features: usize,
    /// Width of a stored code.
    pub bits: u32,
    /// Columns per group, -1 for whole rows.
    pub group_size: i64,
    /// Whether every zero point is the middle of the range, read by either convention.
    pub sym: bool,
    /// Whether groups are scattered, as activation order leaves them.
    pub scattered_g_idx: bool,
    /// Convention of the stored zero points, where this layer's data tell: `gptq`, `gptq_v2` or
    /// `unknown`; the format's name if it has but one.
    pub zero_points: &'static str,
    /// Type of the stored scales.
    pub scales: String,
    /// Bytes of its tensors.
    pub bytes: usize,
    /// Bits stored per weight, scales, zero points and group indices included.
    pub bits_per_weight: f64,
}

/// Reads every packed layer of a folder and sums up the rest. Works on any family. What the data
/// contradict is a finding, not an error.
///
/// Cost: one pass over scales, zero points and group indices; over codes too in formats other than
/// `gptq` and `gptq_v2`.
///
/// # Errors
/// [`Error::Packed`] and [`Error::Scheme`] for a layer whose tensors contradict each other or the
/// config.
pub fn inspect(checkpoint: &Checkpoint) -> Result<Inspection, Error> {
    let Some(config) = quantization_config(checkpoint)? else {
        unexplained(checkpoint, |_| true)?;
        return Ok(summary(checkpoint, None, Value::Null, &[]));
    };
    let names = packed_names(checkpoint, config.format);
    let found: Vec<Found> = names
        .par_iter()
        .map(|name| Found::of(&StoredLayer::named(checkpoint, &config, name)?))
        .collect::<Result<_, Error>>()?;
    let json = match config.to_json() {
        Ok(json) => json,
        // A dialect that cannot say what it was read from: then as it stands in the file.
        Err(_) => stated_config(checkpoint)?.map(|(_, json)| json).unwrap_or_default(),
    };
    let mut out = summary(checkpoint, Some(&config), json, &found);
    out.zero_points = zero_points::zero_points(checkpoint, &config);
    out.findings = findings(&found, &config, out.zero_points.as_ref());
    out.layers = found.into_iter().map(|found| found.scheme).collect();
    Ok(out)
}

fn summary(
    checkpoint: &Checkpoint,
    config: Option<&CheckpointConfig>,
    json: Value,
    found: &[Found],
) -> Inspection {
    let mut packed_bytes = BTreeMap::new();
    for (part, bytes) in found.iter().flat_map(|found| &found.bytes) {
        *packed_bytes.entry(*part).or_default() += bytes;
    }
    let weights: f64 =
        found.iter().map(|f| f.scheme.in_features as f64 * f.scheme.out_features as f64).sum();
    let bits: u64 = found.iter().map(|f| 8 * f.scheme.bytes as u64).sum();
    let format = config.map(|config| config.format);
    let (dense, shares) = shares::of(checkpoint, format);
    Inspection {
        model_type: checkpoint.config()["model_type"].as_str().map(str::to_owned),
        format: format.map(|format| format.as_str()),
        quantization_config: json,
        zero_points: None,
        layers: Vec::new(),
        bits_per_weight: (weights > 0.0).then(|| bits as f64 / weights),
        packed_bytes,
        dense,
        shares,
        bytes: checkpoint.nbytes(),
        findings: Vec::new(),
    }
}

/// What one layer's tensors show.
struct Found {
    scheme: PackedScheme,
    bytes: Vec<(&'static str, u64)>,
    /// All zeros, if there is one.
    zero_bias: Option<bool>,
    unswapped: bool,
    scale_dtype: Dtype,
}

impl Found {
    fn of(layer: &StoredLayer<'_>) -> Result<Self, Error> {
        let q = layer.grids()?;
        let (ins, outs) = (q.in_features(), q.out_features());
        let bytes: Vec<_> = layer
            .tensors()
            .iter()
            .map(|(part, tensor)| (role(*part), tensor.bytes.len() as u64))
            .collect();
        let total = bytes.iter().map(|(_, n)| n).sum::<u64>() as usize;
        let convention = match layer.format.zero_format() {
            Some(_) => zero_points::uniform(&layer.packed()?),
            None => None,
        };
        let zero_points = match (layer.format.zero_format(), convention) {
            (None, _) => layer.format.as_str(),
            (_, found) => found.map_or("unknown", ZeroPointFormat::as_str),
        };
        let middle = q.bits.maxq() / 2 + 1;
        let group_size = layer.spec.group_size;
        let scheme = PackedScheme {
            name: layer.name.clone(),
            out_features: outs,
            in_features: ins,
            bits: layer.spec.width.get(),
            group_size: group_size.to_file(),
            sym: convention.is_some() || q.zeros.iter().all(|&zero| zero == middle),
            scattered_g_idx: !layer.spec.is_natural(&q.g_idx),
            zero_points,
            scales: layer.scale_dtype().to_string(),
            bytes: total,
            bits_per_weight: total as f64 * 8.0 / (ins as f64 * outs as f64),
        };
        Ok(Self {
            scheme,
            bytes,
            zero_bias: layer.tensor(Part::Bias).map(|bias: &RawTensor<'_>| is_zero(bias)),
            unswapped: layer.unswapped,
            scale_dtype: layer.scale_dtype(),
        })
    }
}

fn role(part: Part) -> &'static str {
    match part {
        Part::QWeight | Part::B | Part::WeightPacked => "codes",
        Part::Scales | Part::S | Part::WeightScale => "scales",
        Part::QZeros | Part::WeightZeroPoint => "zeros",
        Part::GIdx | Part::WeightGIdx => "g_idx",
        Part::WeightShape => "shape",
        Part::Bias => "bias",
    }
}

fn findings(
    layers: &[Found],
    config: &CheckpointConfig,
    zero_points: Option<&ZeroPoints>,
) -> Vec<String> {
    let mut out: Vec<String> = zero_points
        .into_iter()
        .flat_map(|found| [found.contradiction(), found.damage.message()])
        .flatten()
        .collect();
    let all = layers.len();
    // How many layers, and the first of them.
    let such = |is: &dyn Fn(&Found) -> bool| {
        let mut those = layers.iter().filter(|found| is(found));
        those.next().map(|first| (1 + those.count(), &first.scheme.name))
    };
    if config.sym && all > 0 && layers.iter().all(|l| !l.scheme.sym) {
        out.push("sym is true, but no layer's zero points are all in the middle".into());
    }
    let scattered = such(&|l| l.scheme.scattered_g_idx);
    if let (Some((n, first)), false) = (scattered, config.desc_act) {
        out.push(format!(
            "desc_act is false, but the g_idx of {n} of {all} layers is scattered (first: \
             {first}); servers that ignore g_idx will read this checkpoint wrongly"
        ));
    }
    // With one group there is nothing to scatter, and servers take desc_act for false.
    let grouped = layers.iter().any(|l| l.scheme.group_size != -1);
    if let (None, true) = (scattered, config.desc_act && grouped) {
        out.push(
            "desc_act is true, but every g_idx is trivial; with false more servers would load it"
                .into(),
        );
    }
    if let Some((n, first)) = such(&|l| l.zero_bias == Some(true)) {
        out.push(format!(
            "{n} of {all} packed layers have a bias of zeros (first: {first}), as AutoGPTQ gave \
             every layer; it changes nothing"
        ));
    }
    if let Some((n, first)) = such(&|l| l.unswapped) {
        out.push(format!(
            "{n} of {all} layers have 3-bit zero points as older GPTQModel releases stored them, \
             with two constants exchanged (first: {first}); they are read rightly here, other \
             tools may not"
        ));
    }
    if let Some((n, first)) = such(&|l| l.scale_dtype == Dtype::F32) {
        out.push(format!(
            "{n} of {all} layers have F32 scales (first: {first}); kernels round them to half \
             precision"
        ));
    }
    out
}
