//! [`MarlinRef`]: a layer in the order that Marlin stores it, for kernels that read it as it is.

use std::borrow::Cow;

use half::f16;

use super::{
    LayerSpec, Stored,
    marlin::{FORMAT, read_words, scale_source, scales_of},
};
use crate::{Error, RawTensor, names::Part, view::read_bias};

/// A layer in Marlin's words, borrowed from a file's bytes after every check: for backends whose
/// kernels read the words as they are. Codes are of 4 bits, their zero point is 8 everywhere, and
/// groups are runs of neighbours, all of one size.
#[derive(Clone, Debug)]
pub struct MarlinRef<'a> {
    in_features: usize,
    out_features: usize,
    group_columns: usize,
    words: Cow<'a, [u32]>,
    scales: Vec<f16>,
    bias: Option<Vec<f32>>,
}

impl<'a> MarlinRef<'a> {
    /// Borrows the layer of the spec. Bytes are copied only where alignment or byte order demand
    /// it, scales (a hundredth of the codes) always: they are brought in the order of the outputs,
    /// and rounded to half precision if the file is finer.
    ///
    /// # Errors
    /// As [`Format::unpack`](super::Format::unpack); [`Error::HalfOverflow`] for a scale that half precision cannot hold.
    ///
    /// ```
    /// use gptq_core::{Bits, QuantizedMatrix};
    /// use gptq_pack::{Format, LayerSpec, marlin::MarlinRef};
    /// use ndarray::Array2;
    ///
    /// let q = QuantizedMatrix {
    ///     bits: Bits::B4,
    ///     codes: Array2::from_elem((256, 128), 3),
    ///     scales: Array2::from_elem((256, 1), 0.5),
    ///     zeros: Array2::from_elem((256, 1), 8),
    ///     g_idx: vec![0; 128],
    /// };
    /// let spec = LayerSpec::of(&q);
    /// let stored = Format::Marlin.pack(&q, &spec, None)?;
    /// let layer = MarlinRef::from_tensors(&stored, &spec)?;
    /// assert_eq!(layer.words().len(), 256 * 128 / 8);
    /// # Ok::<(), gptq_pack::Error>(())
    /// ```
    pub fn from_tensors(
        tensors: &[(Part, RawTensor<'a>)],
        spec: &LayerSpec,
    ) -> Result<Self, Error> {
        let spec = LayerSpec { scattered: false, ..*spec };
        let LayerSpec { in_features, out_features, group_size, .. } = spec;
        let groups = spec.groups();
        if in_features == 0 || out_features == 0 {
            return Err(Error::Empty { out_features, in_features, groups });
        }
        let stored = Stored { format: FORMAT, tensors };
        let words = read_words(stored, &spec)?;
        let found = stored.need(Part::S)?.halves(scales_of(&[groups, out_features]))?;
        let mut scales = vec![f16::ZERO; found.len()];
        for (row, found) in scales.chunks_mut(out_features).zip(found.chunks(out_features)) {
            for (n, &scale) in found.iter().enumerate() {
                row[scale_source(groups, n)] = scale;
            }
        }
        let bias = stored.get(Part::Bias).map(|tensor| read_bias(tensor, out_features));
        let group_columns = group_size.columns(in_features);
        Ok(Self {
            in_features,
            out_features,
            group_columns,
            words,
            scales,
            bias: bias.transpose()?,
        })
    }

    /// Input columns, a multiple of 16.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Output rows, a multiple of 64.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Inputs of a group.
    pub fn group_columns(&self) -> usize {
        self.group_columns
    }

    /// Tiles of 16 inputs × 64 outputs, in/16 × out/64 of them, each of 128 words as
    /// [`repack`](super::marlin::repack) makes them.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Scales in the order of the outputs, groups × out; all finite.
    pub fn scales(&self) -> &[f16] {
        &self.scales
    }

    /// One entry per output, finite; `None` if the layer has no bias.
    pub fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }
}
