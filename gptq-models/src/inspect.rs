//! What a checkpoint holds, as found in its headers and data rather than as declared.

use std::collections::BTreeMap;

use gptq_core::Bits;
use gptq_pack::{
    CheckpointConfig, PackedLinearRef, ZeroPointFormat, lane,
    names::{self, Part},
};
use serde::Serialize;
use serde_json::Value;

use crate::{Checkpoint, Error, LinearPlace, quantization_config, weights::read_packed};

/// The findings.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// `model_type` of `config.json`.
    pub model_type: Option<String>,
    /// The quantization config as read, all spellings resolved; null for a dense model.
    pub quantization_config: Value,
    /// Packed linears, by name.
    pub layers: Vec<PackedScheme>,
    /// Everything else, by element type.
    pub dense: BTreeMap<String, DenseShare>,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Contradictions between what is declared and what was found.
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
    /// Width of a code.
    pub bits: u32,
    /// Columns per group, -1 for whole rows.
    pub group_size: i64,
    /// Whether every zero point is the middle of the range, read by either convention.
    pub sym: bool,
    /// Whether groups are scattered, as activation order leaves them.
    pub scattered_g_idx: bool,
    /// Convention of the stored zero points, where the data tells: `gptq`, `gptq_v2` or `unknown`.
    pub zero_points: &'static str,
    /// Bytes of its tensors.
    pub bytes: usize,
    /// Bits stored per weight, scales and zero points included.
    pub bits_per_weight: f64,
}

/// Unpacked tensors of one element type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DenseShare {
    /// How many.
    pub tensors: usize,
    /// Their elements.
    pub elements: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Reads every packed layer of a folder and sums up the rest. Works on any family.
///
/// # Errors
/// [`Error::Packed`] for a layer whose tensors contradict each other or the config.
pub fn inspect(checkpoint: &Checkpoint) -> Result<Inspection, Error> {
    let config = quantization_config(checkpoint)?;
    let mut out = Inspection {
        model_type: checkpoint.config()["model_type"].as_str().map(str::to_owned),
        quantization_config: config.as_ref().map_or(Value::Null, CheckpointConfig::to_json),
        layers: Vec::new(),
        dense: BTreeMap::new(),
        bytes: checkpoint.nbytes(),
        findings: Vec::new(),
    };
    for tensor in checkpoint.tensors() {
        match names::split(tensor.name) {
            Some((layer, Part::QWeight)) => {
                let place = place(checkpoint, config.as_ref(), layer, tensor.shape)?;
                if let Some(packed) = read_packed(checkpoint, config.as_ref(), &place)? {
                    out.layers.push(scheme(layer, &packed));
                }
            }
            Some((layer, _)) if checkpoint.get(&Part::QWeight.of(layer)).is_some() => {}
            _ => {
                let share = out.dense.entry(format!("{:?}", tensor.dtype)).or_default();
                share.tensors += 1;
                share.elements += tensor.shape.iter().product::<usize>() as u64;
                share.bytes += tensor.bytes.len() as u64;
            }
        }
    }
    if let Some(config) = &config {
        out.findings = findings(&out.layers, config);
    }
    Ok(out)
}

/// A layer's dimensions, from its own tensors: the family may be unknown.
fn place(
    checkpoint: &Checkpoint,
    config: Option<&CheckpointConfig>,
    layer: &str,
    qweight: &[usize],
) -> Result<LinearPlace, Error> {
    let failed = |source| Error::Packed { layer: layer.to_owned(), source };
    let scheme = config.map(|c| c.scheme(layer)).transpose().map_err(failed)?.flatten();
    let bits = scheme.map_or(Bits::B4, |s| s.bits).get() as usize;
    let g_idx = checkpoint.get(&Part::GIdx.of(layer)).and_then(|t| t.shape.first().copied());
    let rows = qweight.first().copied().unwrap_or(0);
    Ok(LinearPlace {
        name: layer.to_owned(),
        out_features: qweight.get(1).copied().unwrap_or(0),
        in_features: g_idx.unwrap_or(rows.saturating_mul(32) / bits),
        bias: false,
    })
}

fn scheme(name: &str, packed: &PackedLinearRef<'_>) -> PackedScheme {
    let (ins, outs, groups) = (packed.in_features(), packed.out_features(), packed.groups());
    let convention = convention(packed);
    let bytes = packed.nbytes();
    PackedScheme {
        name: name.to_owned(),
        out_features: outs,
        in_features: ins,
        bits: packed.bits().get(),
        group_size: match packed.contiguous_group_size() {
            _ if groups == 1 => -1,
            Some(size) => size as i64,
            None => ins.div_ceil(groups) as i64,
        },
        sym: convention.is_some(),
        scattered_g_idx: !packed.has_trivial_g_idx(),
        zero_points: convention.map_or("unknown", ZeroPointFormat::as_str),
        bytes,
        bits_per_weight: bytes as f64 * 8.0 / (ins as f64 * outs as f64),
    }
}

/// Symmetric layers store one number everywhere, and which one tells the convention.
fn convention(packed: &PackedLinearRef<'_>) -> Option<ZeroPointFormat> {
    let (bits, outs) = (packed.bits(), packed.out_features());
    let middle = bits.maxq() / 2 + 1;
    let all = |stored: u8| {
        packed
            .qzeros()
            .chunks(lane::words(bits, outs))
            .all(|row| (0..outs).all(|n| lane::code_at(bits, row, n) == stored))
    };
    if all(middle - 1) {
        Some(ZeroPointFormat::Gptq)
    } else if all(middle) {
        Some(ZeroPointFormat::GptqV2)
    } else {
        None
    }
}

fn findings(layers: &[PackedScheme], config: &CheckpointConfig) -> Vec<String> {
    let mut out = Vec::new();
    let declared = config.zero_format.as_str();
    let other = |l: &&PackedScheme| l.zero_points != "unknown" && l.zero_points != declared;
    let wrong: Vec<&PackedScheme> = layers.iter().filter(other).collect();
    if let Some(first) = wrong.first() {
        out.push(format!(
            "checkpoint_format says {declared}, but {} of {} layers store zero points as {} \
             (first: {})",
            wrong.len(),
            layers.len(),
            first.zero_points,
            first.name
        ));
    }
    if config.sym && !layers.is_empty() && layers.iter().all(|l| !l.sym) {
        out.push("sym is true, but no layer's zero points are all in the middle".into());
    }
    if !config.desc_act
        && let Some(layer) = layers.iter().find(|l| l.scattered_g_idx)
    {
        out.push(format!(
            "desc_act is false, but the g_idx of {} is scattered; servers that ignore g_idx will \
             read this checkpoint wrongly",
            layer.name
        ));
    }
    out
}
