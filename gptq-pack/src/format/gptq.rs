//! `gptq` and `gptq_v2`, by way of [`PackedLinear`].

use gptq_core::{Bits, QuantizedMatrix};
use ndarray::Array2;

use super::{Format, LayerSpec, Layout, Stored, rules};
use crate::{
    Dtype, Error, LinearTensors, PackSpec, PackedLinear, PackedLinearRef, RawTensor, Width,
    ZeroPointFormat, lane, linear::check_zero_points, names::Part, tensors::Expected,
};

pub(super) struct Gptq(pub(super) ZeroPointFormat);

pub(super) const PARTS: [Part; 4] = [Part::QWeight, Part::QZeros, Part::Scales, Part::GIdx];

/// Shapes of the four tensors, the same for every width.
pub(super) fn shapes(spec: &LayerSpec) -> Vec<(Part, Dtype, Vec<usize>)> {
    let LayerSpec { in_features: ins, out_features: outs, .. } = *spec;
    let (bits, groups) = (spec.width.get(), spec.groups());
    vec![
        (Part::QWeight, Dtype::I32, vec![lane::words_of(bits, ins), outs]),
        (Part::QZeros, Dtype::I32, vec![groups, lane::words_of(bits, outs)]),
        (Part::Scales, Dtype::F16, vec![groups, outs]),
        (Part::GIdx, Dtype::I32, vec![ins]),
    ]
}

/// Scales groups × out, exactly, as out × groups.
pub(super) fn read_scales(tensor: &RawTensor<'_>, spec: &LayerSpec) -> Result<Array2<f32>, Error> {
    let (groups, outs) = (spec.groups(), spec.out_features);
    let scales = tensor.finite_floats(Expected {
        part: Part::Scales,
        shape: &[groups, outs],
        rule: "rows are ⌈in_features / group_size⌉, columns out_features",
    })?;
    Ok(Array2::from_shape_fn((outs, groups), |(r, g)| scales[g * outs + r]))
}

pub(super) fn dims(stored: Stored<'_, '_>, width: Width) -> Result<(usize, usize), Error> {
    let rows = stored.dim(Part::QWeight, 0)?;
    let ins = match stored.get(Part::GIdx).map(|tensor| &tensor.shape[..]) {
        Some(&[ins]) => ins,
        _ => rows.saturating_mul(32) / width.get() as usize,
    };
    Ok((ins, stored.dim(Part::QWeight, 1)?))
}

impl Gptq {
    fn format(&self) -> Format {
        self.0.into()
    }

    fn bits(&self, width: Width) -> Result<Bits, Error> {
        rules::width(self.format(), width, &[2, 3, 4, 8], "5, 6 and 7 bits are gptq_p")?;
        Ok(width.bits())
    }
}

impl Layout for Gptq {
    fn parts(&self) -> &'static [Part] {
        &PARTS
    }

    fn shapes(&self, spec: &LayerSpec) -> Vec<(Part, Dtype, Vec<usize>)> {
        shapes(spec)
    }

    fn check(&self, q: &QuantizedMatrix, _: &LayerSpec) -> Result<(), Error> {
        match self.0 {
            ZeroPointFormat::Gptq => check_zero_points(q),
            ZeroPointFormat::GptqV2 => Ok(()),
        }
    }

    fn pack(&self, q: &QuantizedMatrix, _: &LayerSpec) -> Result<Vec<RawTensor<'static>>, Error> {
        let packed = PackedLinear::pack(q, self.0)?;
        Ok(packed.tensors().into_iter().map(|(_, tensor)| tensor.into_owned()).collect())
    }

    fn unpack(&self, stored: Stored<'_, '_>, spec: &LayerSpec) -> Result<QuantizedMatrix, Error> {
        let scales = stored.need(Part::Scales)?;
        let tensors = LinearTensors {
            qweight: stored.need(Part::QWeight)?.clone(),
            qzeros: stored.need(Part::QZeros)?.clone(),
            scales: scales.clone(),
            g_idx: stored.get(Part::GIdx).cloned(),
            bias: None,
        };
        let pack_spec = PackSpec {
            in_features: spec.in_features,
            out_features: spec.out_features,
            bits: Some(self.bits(spec.width)?),
            group_size: spec.group_size,
            zero_format: self.0,
        };
        let mut q = PackedLinearRef::from_tensors(&tensors, &pack_spec)?.unpack();
        // A packed layer holds what kernels compute with; files may hold finer scales.
        if scales.dtype != Dtype::F16 {
            q.scales = read_scales(scales, spec)?;
        }
        Ok(q)
    }

    fn dims(&self, stored: Stored<'_, '_>, width: Width) -> Result<(usize, usize), Error> {
        dims(stored, width)
    }
}
