//! Layers on their way to a file, and the proof from the bytes on disk that they arrived.

use gptq_core::QuantizedMatrix;
use gptq_pack::{Dtype, Format, LayerSpec, RawTensor};
use half::{bf16, f16, slice::HalfFloatSliceExt};

use crate::{CheckpointWriter, Error, quantized::Quantized};

/// A packed layer to write.
pub(crate) struct Proven<'a> {
    pub(crate) name: &'a str,
    pub(crate) format: Format,
    pub(crate) written_as: &'a LayerSpec,
    /// What a reader takes it for, by the config of the result.
    pub(crate) read_as: &'a LayerSpec,
}

impl Proven<'_> {
    /// Packs a layer, writes it, reads the bytes back and unpacks them again: what is on disk is
    /// what was given, integer by integer.
    ///
    /// # Errors
    /// [`Error::Verify`]; the writer's; the format's, as `failed` tells them.
    pub(crate) fn write(
        &self,
        writer: &CheckpointWriter,
        q: &QuantizedMatrix,
        bias: Option<&[f32]>,
        failed: impl Fn(gptq_pack::Error) -> Error,
    ) -> Result<(), Error> {
        let tensors = self.format.pack(q, self.written_as, bias).map_err(&failed)?;
        for (part, tensor) in tensors {
            writer.put(&part.of(self.name), &tensor.bytes)?;
        }
        let (back, stored_bias) = self.read(writer, failed)?;
        // Whole arrays first: the search for what differs is slower than the answer that nothing does.
        if back == *q && stored_bias.as_deref() == bias {
            return Ok(());
        }
        let message = first_difference(&back, q).unwrap_or_else(|| "the bias differs".to_owned());
        Err(Error::Verify { layer: self.name.to_owned(), message })
    }

    /// A layer that was written, and its bias.
    ///
    /// # Errors
    /// The writer's; the format's, as `failed` tells them.
    pub(crate) fn read(
        &self,
        writer: &CheckpointWriter,
        failed: impl Fn(gptq_pack::Error) -> Error,
    ) -> Result<Quantized, Error> {
        let mut stored = Vec::new();
        for (part, dtype, shape) in self.format.parts(self.written_as) {
            let bytes = writer.read_back(&part.of(self.name))?.into();
            stored.push((part, RawTensor { dtype, shape, bytes }));
        }
        self.format.unpack(&stored, self.read_as).map_err(failed)
    }
}

fn first_difference(read: &QuantizedMatrix, solved: &QuantizedMatrix) -> Option<String> {
    let codes = read.codes.indexed_iter().zip(&solved.codes);
    if let Some((((r, c), found), code)) = codes.into_iter().find(|((_, a), b)| a != b) {
        return Some(format!("code [{r}, {c}] is {found} instead of {code}"));
    }
    if read.zeros != solved.zeros {
        return Some("a zero point differs".into());
    }
    if read.scales != solved.scales {
        return Some("a scale differs".into());
    }
    (read.g_idx != solved.g_idx).then(|| "g_idx differs".into())
}

/// Weights as stored in `F16`, `BF16` or else `F32`, and what they then are.
pub(crate) fn encoded(weights: &[f32], dtype: Dtype) -> (Vec<u8>, Vec<f32>) {
    let mut back = vec![0.0; weights.len()];
    match dtype {
        Dtype::F16 => {
            let mut halves = vec![f16::ZERO; weights.len()];
            halves.convert_from_f32_slice(weights);
            halves.convert_to_f32_slice(&mut back);
            (halves.iter().flat_map(|half| half.to_le_bytes()).collect(), back)
        }
        Dtype::BF16 => {
            let mut halves = vec![bf16::ZERO; weights.len()];
            halves.convert_from_f32_slice(weights);
            halves.convert_to_f32_slice(&mut back);
            (halves.iter().flat_map(|half| half.to_le_bytes()).collect(), back)
        }
        _ => {
            back.copy_from_slice(weights);
            (weights.iter().flat_map(|weight| weight.to_le_bytes()).collect(), back)
        }
    }
}
