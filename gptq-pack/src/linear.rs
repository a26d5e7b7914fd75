//! [`PackedLinear`]: one quantized linear layer as checkpoints store it; pack and unpack.

use std::borrow::Cow;

use gptq_core::{Bits, QuantizedMatrix};
use half::f16;
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use crate::{
    Error, ZeroPointFormat,
    lane::{self, LANE},
    names::Part,
    tensors::{Dtype, RawTensor, encode, round_to_half},
};

/// One quantized linear layer, packed, and proven consistent: whoever holds one may index without
/// checking again. Its arrays are borrowed from a file's bytes or owned.
///
/// With `b` bits, `in` inputs, `out` outputs and `groups` groups, row-major as in the file:
///
/// | accessor | shape | holds |
/// |---|---|---|
/// | [`qweight`](Self::qweight) | ⌈in·b/32⌉ × out | codes; a column is one stream over the inputs |
/// | [`qzeros`](Self::qzeros) | groups × ⌈out·b/32⌉ | zero points; a row is one stream over the outputs |
/// | [`scales`](Self::scales) | groups × out | finite half-precision scales |
/// | [`g_idx`](Self::g_idx) | in | the group of each input, below `groups` |
/// | [`bias`](Self::bias) | out | finite, if the layer has one |
///
/// Take `&PackedLinearRef<'_>` in function arguments; it accepts an owned [`PackedLinear`] too.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedLinearRef<'a> {
    pub(crate) bits: Bits,
    pub(crate) in_features: usize,
    pub(crate) out_features: usize,
    pub(crate) groups: usize,
    pub(crate) zero_format: ZeroPointFormat,
    pub(crate) qweight: Cow<'a, [u32]>,
    pub(crate) qzeros: Cow<'a, [u32]>,
    pub(crate) scales: Cow<'a, [f16]>,
    pub(crate) g_idx: Cow<'a, [u32]>,
    pub(crate) bias: Option<Vec<f32>>,
}

/// A packed layer that owns its arrays: what [`PackedLinear::pack`](PackedLinearRef::pack) makes.
pub type PackedLinear = PackedLinearRef<'static>;

impl PackedLinearRef<'static> {
    /// Packs a quantized matrix, without a bias. Scales are rounded to half precision; everything
    /// else is kept exactly.
    ///
    /// Cost: one pass over the codes, on the caller's rayon pool.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::GroupIndex`] or [`Error::TooWide`] if the matrix contradicts
    /// itself; [`Error::NotFinite`] or [`Error::HalfOverflow`] if a scale does not fit the file;
    /// [`Error::ZeroPointAtZero`] if a zero point is 0 and the format stores it minus one.
    pub fn pack(q: &QuantizedMatrix, zero_format: ZeroPointFormat) -> Result<Self, Error> {
        let (out_features, in_features, groups) = (q.out_features(), q.in_features(), q.groups());
        check_matrix(q)?;
        if zero_format == ZeroPointFormat::Gptq {
            check_zero_points(q)?;
        }

        let mut qzeros = vec![0; groups * lane::words(q.bits, out_features)];
        let mut of_group = Vec::with_capacity(out_features);
        let rows = qzeros.chunks_exact_mut(lane::words(q.bits, out_features));
        for (words, zeros) in rows.zip(q.zeros.columns()) {
            of_group.clear();
            of_group.extend(zeros);
            zero_format.store(q.bits, &of_group, words);
        }
        let scales = half_scales(q)?;
        Ok(Self {
            bits: q.bits,
            in_features,
            out_features,
            groups,
            zero_format,
            qweight: pack_columns(q.bits, q.codes.view()).into(),
            qzeros: qzeros.into(),
            scales: scales.into(),
            g_idx: q.g_idx.clone().into(),
            bias: None,
        })
    }
}

impl<'a> PackedLinearRef<'a> {
    /// Adds a bias of `out` entries, rounded to half precision as GPTQ writers store it.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NotFinite`] or [`Error::HalfOverflow`].
    pub fn with_bias(mut self, bias: &[f32]) -> Result<Self, Error> {
        if bias.len() != self.out_features {
            let rule = "one entry for each output";
            return Err(shape(Part::Bias, &[bias.len()], &[self.out_features], rule));
        }
        let halves = round_to_half(Part::Bias, self.out_features, bias.iter().copied())?;
        self.bias = Some(halves.into_iter().map(f16::to_f32).collect());
        Ok(self)
    }

    /// The codes and grids again: the exact inverse of [`pack`](PackedLinearRef::pack).
    ///
    /// Codes are found by their position in the stream, not by running the packer backwards, so
    /// that comparing the result with what was packed proves the words.
    pub fn unpack(&self) -> QuantizedMatrix {
        let (bits, outs, groups) = (self.bits, self.out_features, self.groups);
        let row_words = lane::words(bits, outs);
        let mut zeros = Array2::zeros((outs, groups));
        let mut of_group = vec![0; outs];
        for (words, mut column) in self.qzeros.chunks(row_words).zip(zeros.columns_mut()) {
            self.zero_format.load(bits, words, &mut of_group);
            column.iter_mut().zip(&of_group).for_each(|(zero, &stored)| *zero = stored);
        }
        QuantizedMatrix {
            bits,
            codes: unpack_columns(bits, &self.qweight, self.in_features, outs),
            scales: Array2::from_shape_fn((outs, groups), |(r, g)| {
                self.scales[g * outs + r].to_f32()
            }),
            zeros,
            g_idx: self.g_idx.to_vec(),
        }
    }

    /// The layer's tensors as a writer stores them, with words borrowed where the machine is
    /// little-endian. The bias is `F16` if that is exact, which after
    /// [`with_bias`](Self::with_bias) it is; `F32` if a file brought a finer one.
    pub fn tensors(&self) -> Vec<(Part, RawTensor<'_>)> {
        let (outs, groups) = (self.out_features, self.groups);
        let i32s = |shape: [usize; 2], words| RawTensor {
            dtype: Dtype::I32,
            shape: shape.to_vec(),
            bytes: encode(words, u32::to_le_bytes),
        };
        let qweight = i32s([lane::words(self.bits, self.in_features), outs], &self.qweight);
        let qzeros = i32s([groups, lane::words(self.bits, outs)], &self.qzeros);
        let scales = RawTensor {
            dtype: Dtype::F16,
            shape: vec![groups, outs],
            bytes: encode(&self.scales, f16::to_le_bytes),
        };
        let g_idx = RawTensor {
            dtype: Dtype::I32,
            shape: vec![self.in_features],
            bytes: encode(&self.g_idx, u32::to_le_bytes),
        };
        let mut tensors = vec![
            (Part::QWeight, qweight),
            (Part::QZeros, qzeros),
            (Part::Scales, scales),
            (Part::GIdx, g_idx),
        ];
        tensors.extend(self.bias().map(|bias| (Part::Bias, bias_tensor(bias))));
        tensors
    }
}

/// Outputs whose words are handled together: those of a cache line.
const LINE: usize = 16;

/// Lanes per task.
const LANES: usize = 8;

/// The `qweight` of an out × in matrix of codes: each row becomes a column of words.
fn pack_columns(bits: Bits, codes: ArrayView2<'_, u8>) -> Vec<u32> {
    let (outs, ins) = codes.dim();
    let mut qweight = vec![0; lane::words(bits, ins) * outs];
    let codes = codes.as_standard_layout();
    let codes = codes.as_slice().expect("as_standard_layout is contiguous");
    let lane_words = bits.get() as usize * outs;
    qweight.par_chunks_mut(LANES * lane_words).enumerate().for_each(|(task, qweight)| {
        for (line, rows) in codes.chunks(LINE * ins).enumerate() {
            for (i, stored) in qweight.chunks_mut(lane_words).enumerate() {
                let first = (task * LANES + i) * LANE;
                let last = ins.min(first + LANE);
                for (r, row) in rows.chunks_exact(ins).enumerate() {
                    let words = lane::pack_lane(bits, &row[first..last]);
                    let column = line * LINE + r;
                    for (stored, word) in stored.chunks_exact_mut(outs).zip(words) {
                        stored[column] = word;
                    }
                }
            }
        }
    });
    qweight
}

/// The inverse of [`pack_columns`].
fn unpack_columns(bits: Bits, qweight: &[u32], ins: usize, outs: usize) -> Array2<u8> {
    let mut codes = vec![0; outs * ins];
    let row_words = lane::words(bits, ins);
    codes.par_chunks_mut(LINE * ins).enumerate().for_each(|(tile, codes)| {
        let mut words = vec![0; LINE * row_words];
        let rows = codes.len() / ins;
        for (w, stored) in qweight.chunks_exact(outs).enumerate() {
            for (r, &word) in stored[tile * LINE..][..rows].iter().enumerate() {
                words[r * row_words + w] = word;
            }
        }
        for (words, row) in words.chunks_exact(row_words).zip(codes.chunks_exact_mut(ins)) {
            lane::unpack(bits, words, row);
        }
    });
    Array2::from_shape_vec((outs, ins), codes).expect("a code for each output and input")
}

/// Scales in half precision and in the order of files, groups × out: columns of ours are rows of
/// theirs.
pub(crate) fn half_scales(q: &QuantizedMatrix) -> Result<Vec<f16>, Error> {
    round_to_half(Part::Scales, q.out_features(), q.scales.t().iter().copied())
}

/// `F16` where that loses nothing.
fn bias_tensor(bias: &[f32]) -> RawTensor<'_> {
    let halves: Vec<f16> = bias.iter().map(|&b| f16::from_f32(b)).collect();
    let exact = halves.iter().zip(bias).all(|(half, &b)| half.to_f32() == b);
    let (dtype, bytes) = if exact {
        (Dtype::F16, encode(&halves, f16::to_le_bytes).into_owned().into())
    } else {
        (Dtype::F32, encode(bias, f32::to_le_bytes))
    };
    RawTensor { dtype, shape: vec![bias.len()], bytes }
}

/// Refuses a matrix that contradicts itself.
pub(crate) fn check_matrix(q: &QuantizedMatrix) -> Result<(), Error> {
    let (out_features, in_features, groups) = (q.out_features(), q.in_features(), q.groups());
    if out_features == 0 || in_features == 0 || groups == 0 {
        return Err(Error::Empty { out_features, in_features, groups });
    }
    if q.scales.nrows() != out_features {
        let rule = "a scale for each output of the codes and each group";
        return Err(shape(Part::Scales, q.scales.shape(), &[out_features, groups], rule));
    }
    if q.zeros.dim() != q.scales.dim() {
        let rule = "a zero point for each scale";
        return Err(shape(Part::QZeros, q.zeros.shape(), q.scales.shape(), rule));
    }
    if q.g_idx.len() != in_features {
        let rule = "the group of each input";
        return Err(shape(Part::GIdx, &[q.g_idx.len()], &[in_features], rule));
    }
    if let Some(column) = q.g_idx.iter().position(|&g| g as usize >= groups) {
        return Err(Error::GroupIndex { column, found: q.g_idx[column].into(), groups });
    }
    for (what, array) in [("code", &q.codes), ("zero point", &q.zeros)] {
        let (bits, maxq) = (q.bits.get(), q.bits.maxq());
        // A plain fold first: it vectorizes, and damage is rare.
        if array.iter().fold(0, |max, &v| max.max(v)) > maxq
            && let Some(((row, column), &value)) = array.indexed_iter().find(|&(_, &v)| v > maxq)
        {
            return Err(Error::TooWide { what, row, column, value, bits, maxq });
        }
    }
    Ok(())
}

/// Refuses zero points of 0, which v1 cannot hold.
pub(crate) fn check_zero_points(q: &QuantizedMatrix) -> Result<(), Error> {
    let mut at_zero = q.zeros.indexed_iter().filter(|&(_, &z)| z == 0);
    match at_zero.next() {
        Some(((row, group), _)) => {
            Err(Error::ZeroPointAtZero { count: 1 + at_zero.count(), row, group })
        }
        None => Ok(()),
    }
}

pub(crate) fn shape(part: Part, found: &[usize], expected: &[usize], rule: &str) -> Error {
    let (found, expected) = (found.to_vec(), expected.to_vec());
    Error::Shape { part, found, expected, rule: rule.to_owned() }
}
