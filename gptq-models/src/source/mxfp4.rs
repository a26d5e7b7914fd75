//! MXFP4: 4-bit floats (E2M1) in blocks of 32 inputs that share a power of two (E8M0), as gpt-oss
//! is published and the OCP Microscaling formats 1.0 define it.

use ndarray::Array2;
use safetensors::Dtype;

use super::fused::{FusedExpert, Names, Steps};
use crate::{Checkpoint, Error, TensorView, graph::LinearPlace};

/// Values by code: sign, two bits of exponent, one of mantissa.
const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Inputs that share a scale.
const BLOCK: usize = 32;
/// Their codes, the first of each byte in its low half.
const BLOCK_BYTES: usize = BLOCK / 2;

/// 2^(scale − 127). 255 stands for NaN and comes out as infinity: no value times it is finite.
fn power(scale: u8) -> f32 {
    const HALF_OF_THE_LEAST_NORMAL: u32 = 1 << 22;
    f32::from_bits(if scale == 0 { HALF_OF_THE_LEAST_NORMAL } else { u32::from(scale) << 23 })
}

/// One expert's linear.
pub(super) struct Mxfp4<'a> {
    pub(super) blocks: TensorView<'a>,
    pub(super) scales: TensorView<'a>,
    rows: Steps,
    out_features: usize,
    in_features: usize,
}

impl<'a> Mxfp4<'a> {
    pub(super) fn new(
        checkpoint: &'a Checkpoint,
        place: &LinearPlace,
        expert: &FusedExpert,
        names: &Names,
    ) -> Result<Self, Error> {
        expert.check(place)?;
        let (out_features, in_features) = (place.out_features, place.in_features);
        let blocks = checkpoint.tensor(&names.blocks)?;
        let scales = checkpoint.tensor(&names.scales)?;
        if !in_features.is_multiple_of(BLOCK) {
            return Err(Error::file(
                blocks.file,
                format!(
                    "tensor {} stores inputs in blocks of {BLOCK}, but {} has {in_features} of \
                     them by config.json",
                    blocks.name, place.name
                ),
            ));
        }
        let total = expert.outputs.total(out_features);
        let shape = [expert.experts, total, in_features / BLOCK, BLOCK_BYTES];
        for (view, shape) in [(&blocks, &shape[..]), (&scales, &shape[..3])] {
            view.check_shape(shape)?;
            view.check_dtype(Dtype::U8, "U8")?;
        }
        Ok(Self { rows: expert.rows(out_features), blocks, scales, out_features, in_features })
    }

    pub(super) fn read(&self) -> Result<Array2<f32>, Error> {
        let width = self.in_features / BLOCK;
        let mut values = Vec::with_capacity(self.out_features * self.in_features);
        for row in self.rows.iter() {
            let lanes = row * width..(row + 1) * width;
            let blocks = &self.blocks.bytes.as_chunks::<BLOCK_BYTES>().0[lanes.clone()];
            for (block, &scale) in blocks.iter().zip(&self.scales.bytes[lanes]) {
                let power = power(scale);
                let halves = block.iter().flat_map(|byte| [byte & 15, byte >> 4]);
                values.extend(halves.map(|code| E2M1[usize::from(code)] * power));
            }
        }
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let (row, block) = (at / self.in_features, at % self.in_features / BLOCK);
            return Err(self.scales.not_finite(values[at], self.rows.at(row), block));
        }
        self.blocks.matrix_of(self.out_features, self.in_features, values)
    }
}
