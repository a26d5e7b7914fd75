//! One linear in two checkpoints, packed in at least one of them.

use gptq_core::QuantizedMatrix;
use gptq_pack::CheckpointConfig;
use ndarray::{Array2, ArrayView2};
use serde::Serialize;

use super::relative_difference;
use crate::{Checkpoint, Error, quantized::StoredLayer};

/// A linear that is packed in either folder.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerDiff {
    /// Full name.
    pub name: String,
    /// How the first folder stores it: format, width, group, grid; or its type.
    pub a: String,
    /// How the second does.
    pub b: String,
    /// Share of codes that agree; null unless both have codes of one width and shape.
    pub codes_equal: Option<f64>,
    /// Share of scales that agree; null unless both have as many.
    pub scales_equal: Option<f64>,
    /// Share of zero points that agree; null unless both have as many.
    pub zeros_equal: Option<f64>,
    /// Whether every input is in the same group; null unless both have groups.
    pub g_idx_equal: Option<bool>,
    /// Largest difference of a weight, as a share of the first's root mean square; null for
    /// weights of other shapes.
    pub max: Option<f64>,
    /// Root mean square of the differences, as a share of the same.
    pub rms: Option<f64>,
    /// The same format, the same integers, the same grids.
    pub equal: bool,
}

/// A weight, decoded, with the integers it comes from.
pub(super) struct Weights {
    form: String,
    weights: Array2<f32>,
    codes: Option<QuantizedMatrix>,
}

impl Weights {
    /// Reads the weight of this name, or the packed layer that stands for it.
    pub(super) fn read(
        checkpoint: &Checkpoint,
        config: Option<&CheckpointConfig>,
        name: &str,
        packed: Option<&str>,
    ) -> Result<Self, Error> {
        if let (Some(config), Some(module)) = (config, packed) {
            let layer = StoredLayer::named(checkpoint, config, module)?;
            let (q, _) = layer.read()?;
            let middle = q.bits.maxq() / 2 + 1;
            let form = format!(
                "{} {} bits, group {}, {}{}",
                layer.format,
                layer.spec.width,
                layer.spec.group_size.to_file(),
                if q.zeros.iter().all(|&zero| zero == middle) { "sym" } else { "asym" },
                if layer.spec.is_natural(&q.g_idx) { "" } else { ", scattered g_idx" },
            );
            return Ok(Self { form, weights: q.dequantize(), codes: Some(q) });
        }
        let tensor = checkpoint.tensor(name)?;
        let (rows, columns) = match *tensor.shape {
            [rows, columns] => (rows, columns),
            _ => (1, tensor.shape.iter().product()),
        };
        let form = format!("dense {:?}", tensor.dtype);
        tensor.check_floats()?;
        Ok(Self { form, weights: tensor.to_matrix(rows, columns)?, codes: None })
    }
}

impl LayerDiff {
    pub(super) fn of(name: &str, a: &Weights, b: &Weights) -> Self {
        let same_shape = a.weights.dim() == b.weights.dim();
        let difference = same_shape
            .then(|| relative_difference(a.weights.iter().copied().zip(b.weights.iter().copied())));
        let both = a.codes.as_ref().zip(b.codes.as_ref()).filter(|_| same_shape);
        let codes_equal = both
            .filter(|(a, b)| a.bits == b.bits)
            .and_then(|(a, b)| share(a.codes.view(), b.codes.view()));
        let scales_equal = both.and_then(|(a, b)| share(a.scales.view(), b.scales.view()));
        let zeros_equal = both.and_then(|(a, b)| share(a.zeros.view(), b.zeros.view()));
        let g_idx_equal = both.map(|(a, b)| a.g_idx == b.g_idx);
        let all = |share: Option<f64>| share == Some(1.0);
        let equal = a.form == b.form
            && [codes_equal, scales_equal, zeros_equal].into_iter().all(all)
            && g_idx_equal == Some(true);
        Self {
            name: name.to_owned(),
            a: a.form.clone(),
            b: b.form.clone(),
            codes_equal,
            scales_equal,
            zeros_equal,
            g_idx_equal,
            max: difference.map(|d| d.0),
            rms: difference.map(|d| d.1),
            equal,
        }
    }
}

/// The share of entries that agree; `None` for arrays of other shapes.
fn share<T: PartialEq>(a: ArrayView2<'_, T>, b: ArrayView2<'_, T>) -> Option<f64> {
    let equal = || a.iter().zip(&b).filter(|(a, b)| a == b).count();
    (a.dim() == b.dim()).then(|| equal() as f64 / a.len().max(1) as f64)
}
