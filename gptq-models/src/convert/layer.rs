//! One layer: converted, written, read back, compared.

use gptq_core::QuantizedMatrix;
use gptq_pack::{Dtype, Format, RawTensor, ZeroPointFormat};
use half::{bf16, f16};
use ndarray::Array2;

use super::{
    ConvertedLayer,
    plan::{Goal, LayerPlan},
};
use crate::{CheckpointWriter, Error, output::first_difference};

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
            packed(plan, format, &held, bias.as_deref(), writer)?;
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

fn packed(
    plan: &LayerPlan<'_>,
    format: Format,
    q: &QuantizedMatrix,
    bias: Option<&[f32]>,
    writer: &CheckpointWriter,
) -> Result<(), Error> {
    let layer = &plan.layer;
    let failed = |source| layer.explain(source);
    let tensors = format.pack(q, &plan.spec, bias).map_err(failed)?;
    for (part, tensor) in &tensors {
        writer.put(&part.of(&layer.name), &tensor.bytes)?;
    }
    let mut stored = Vec::with_capacity(tensors.len());
    for (part, tensor) in tensors {
        let bytes = writer.read_back(&part.of(&layer.name))?;
        stored.push((part, RawTensor { bytes: bytes.into(), ..tensor }));
    }
    let (back, stored_bias) = format.unpack(&stored, &plan.read_as).map_err(failed)?;
    // Whole arrays first: the search for what differs is slower than the answer that nothing does.
    if back == *q && stored_bias.as_deref() == bias {
        return Ok(());
    }
    let message = first_difference(&back, q).unwrap_or_else(|| "the bias differs".to_owned());
    Err(Error::Verify { layer: layer.name.clone(), message })
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
    let mut bytes = Vec::with_capacity(weights.len() * dtype.size());
    for &weight in weights {
        match dtype {
            Dtype::F16 => bytes.extend(f16::from_f32(weight).to_le_bytes()),
            Dtype::BF16 => bytes.extend(bf16::from_f32(weight).to_le_bytes()),
            _ => bytes.extend(weight.to_le_bytes()),
        }
    }
    writer.put(&name, &bytes)?;
    let bytes = writer.read_back(&name)?;
    let halves = || bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
    let back: Vec<f32> = match dtype {
        Dtype::F16 => halves().map(|h| f16::from_bits(h).to_f32()).collect(),
        Dtype::BF16 => halves().map(|h| bf16::from_bits(h).to_f32()).collect(),
        _ => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
    };
    for (((r, c), &weight), &found) in weights.indexed_iter().zip(&back) {
        let expected = rounded(weight, dtype);
        if found != expected || !found.is_finite() {
            let message = match expected.is_finite() {
                true => format!("weight [{r}, {c}] is {found} instead of {expected}"),
                false => format!("weight [{r}, {c}] is {weight}, beyond {dtype}; use --dtype f32"),
            };
            return Err(Error::Verify { layer: plan.layer.name.clone(), message });
        }
    }
    let differences = back.iter().zip(weights).map(|(&a, &b)| f64::from(a) - f64::from(b));
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
