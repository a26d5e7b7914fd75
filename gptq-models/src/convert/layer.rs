//! One layer: converted, written, read back, compared.

use gptq_core::QuantizedMatrix;
use gptq_pack::{Dtype, Format, ZeroPointFormat};
use half::{bf16, f16};
use ndarray::Array2;

use super::{
    ConvertedLayer,
    plan::{Goal, LayerPlan},
};
use crate::{
    CheckpointWriter, Error,
    proof::{Proven, encoded},
};

/// Converts and proves one layer.
pub(super) fn convert(
    plan: &LayerPlan<'_>,
    goal: Goal,
    writer: &CheckpointWriter,
) -> Result<ConvertedLayer, Error> {
    let (q, bias) = plan.layer.read()?;
    let name = plan.layer.name.clone();
    match goal {
        Goal::Dense(dtype) => {
            let weights = q.dequantize();
            let changes = dense(plan, dtype, &weights, writer)?;
            let (max_error, rms_error) = changes.relative_to(&weights);
            Ok(ConvertedLayer { name, lossless: changes.max == 0.0, max_error, rms_error })
        }
        Goal::Packed(format) => {
            let (held, changed) = match plan.lossless {
                true => (q, None),
                false => (nearest(&q, format, plan.spec.scale_dtype), Some(q)),
            };
            let layer = Proven {
                name: &plan.layer.name,
                format,
                written_as: &plan.spec,
                read_as: &plan.read_as,
            };
            layer.write(writer, &held, bias.as_deref(), |source| plan.layer.explain(source))?;
            let Some(q) = changed else {
                return Ok(ConvertedLayer { name, lossless: true, max_error: 0.0, rms_error: 0.0 });
            };
            let weights = q.dequantize();
            let differences = held.dequantize().into_iter().zip(&weights);
            let changes = Changes::of(differences.map(|(a, &b)| f64::from(a) - f64::from(b)));
            let (max_error, rms_error) = changes.relative_to(&weights);
            Ok(ConvertedLayer { name, lossless: false, max_error, rms_error })
        }
    }
}

/// The nearest that a format can hold.
fn nearest(q: &QuantizedMatrix, format: Format, scale_dtype: Dtype) -> QuantizedMatrix {
    let mut out = q.clone();
    let dtype = if format == Format::CompressedTensors { scale_dtype } else { Dtype::F16 };
    out.scales.mapv_inplace(|scale| rounded(scale, dtype));
    if format.zero_format() == Some(ZeroPointFormat::Gptq) {
        raise_zeros(&mut out);
    }
    out
}

/// Codes and zero points of groups whose zero point is 0 go up by one; codes at the top stay, and
/// lose a step.
fn raise_zeros(q: &mut QuantizedMatrix) {
    for (r, mut codes) in q.codes.outer_iter_mut().enumerate() {
        for (code, &g) in codes.iter_mut().zip(&q.g_idx) {
            if q.zeros[[r, g as usize]] == 0 {
                *code = q.bits.maxq().min(*code + 1);
            }
        }
    }
    q.zeros.mapv_inplace(|zero| zero.max(1));
}

fn dense(
    plan: &LayerPlan<'_>,
    dtype: Dtype,
    weights: &Array2<f32>,
    writer: &CheckpointWriter,
) -> Result<Changes, Error> {
    let name = format!("{}.weight", plan.layer.name);
    let weights = weights.as_standard_layout();
    let weights = weights.as_slice().unwrap_or_default();
    let (bytes, expected) = encoded(weights, dtype);
    let failed = |message| Err(Error::Verify { layer: plan.layer.name.clone(), message });
    if let Some(i) = expected.iter().position(|weight| !weight.is_finite()) {
        let (r, c) = (i / plan.spec.in_features, i % plan.spec.in_features);
        let weight = weights[i];
        return failed(format!("weight [{r}, {c}] is {weight}, beyond {dtype}; use --dtype f32"));
    }
    writer.put(&name, &bytes)?;
    if let Some(i) = writer.read_back(&name)?.iter().zip(&bytes).position(|(a, b)| a != b) {
        return failed(format!("byte {i} on disk is not the one written"));
    }
    let differences = expected.iter().zip(weights).map(|(&a, &b)| f64::from(a) - f64::from(b));
    Ok(Changes::of(differences))
}

fn rounded(value: f32, dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F16 => f16::from_f32(value).to_f32(),
        Dtype::BF16 => bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

/// How much a layer's weights change.
struct Changes {
    max: f64,
    squares: f64,
}

impl Changes {
    fn of(differences: impl Iterator<Item = f64>) -> Self {
        differences.fold(Self { max: 0.0, squares: 0.0 }, |sum, d| Self {
            max: sum.max.max(d.abs()),
            squares: sum.squares + d * d,
        })
    }

    /// Largest and root mean square, as shares of the weights' root mean square.
    fn relative_to(&self, weights: &Array2<f32>) -> (f64, f64) {
        let n = weights.len() as f64;
        let rms = (weights.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>() / n).sqrt();
        match rms > 0.0 {
            true => (self.max / rms, (self.squares / n).sqrt() / rms),
            false => (self.max, (self.squares / n).sqrt()),
        }
    }
}
