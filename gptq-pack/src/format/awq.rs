//! AWQ in its GEMM order: 4-bit codes packed along the outputs, eight to a word, interleaved.

use gptq_core::{Bits, QuantizedMatrix};
use ndarray::{Array2, ArrayView2};

use super::{Format, LayerSpec, Layout, Stored, gptq, rules};
use crate::{
    Dtype, Error, RawTensor, Width,
    linear::half_scales,
    names::Part,
    tensors::{Expected, encode},
    view::natural_g_idx,
};

pub(super) struct Awq;

const FORMAT: Format = Format::Awq;
/// Output `8j + OUTPUT[n]` is nibble `n` of word `j`: even outputs below, odd ones above, so that one
/// shift of a word leaves two outputs of neighbours in its halves.
const OUTPUT: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
const OUTPUTS: usize = OUTPUT.len();

/// Columns taken together, so that what is read and what is written both stay in the cache.
const TILE: usize = 16;

/// Packs along the rows of an outputs × n matrix: n × outputs/8 words.
fn pack(values: ArrayView2<'_, u8>) -> Vec<u32> {
    let (outs, columns) = values.dim();
    let (values, row_words) = (values.as_standard_layout(), outs / OUTPUTS);
    let values = values.as_slice().expect("as_standard_layout is contiguous");
    let mut words = vec![0; columns * row_words];
    for (tile, words) in words.chunks_mut(TILE * row_words).enumerate() {
        for (j, rows) in values.chunks_exact(OUTPUTS * columns).enumerate() {
            for (n, output) in OUTPUT.into_iter().enumerate() {
                let row = &rows[output * columns + tile * TILE..];
                for (words, &value) in words.chunks_exact_mut(row_words).zip(row) {
                    words[j] |= u32::from(value) << (4 * n);
                }
            }
        }
    }
    words
}

/// The inverse of [`pack`].
fn unpack(words: &[u32], outs: usize, columns: usize) -> Array2<u8> {
    let row_words = outs / OUTPUTS;
    let mut values = vec![0; outs * columns];
    for (tile, words) in words.chunks(TILE * row_words).enumerate() {
        for (j, rows) in values.chunks_exact_mut(OUTPUTS * columns).enumerate() {
            for (n, output) in OUTPUT.into_iter().enumerate() {
                let row = &mut rows[output * columns + tile * TILE..];
                for (words, value) in words.chunks_exact(row_words).zip(row) {
                    *value = (words[j] >> (4 * n)) as u8 & 0xf;
                }
            }
        }
    }
    Array2::from_shape_vec((outs, columns), values).expect("a value for each output and column")
}

fn check(spec: &LayerSpec) -> Result<(), Error> {
    rules::width(FORMAT, spec.width, &[4], "write gptq_v2 or compressed-tensors")?;
    rules::multiple(FORMAT, "out_features", spec.out_features, OUTPUTS)?;
    rules::multiple(
        FORMAT,
        "in_features",
        spec.in_features,
        spec.group_size.columns(spec.in_features),
    )
}

impl Layout for Awq {
    fn parts(&self) -> &'static [Part] {
        &[Part::QWeight, Part::QZeros, Part::Scales]
    }

    fn shapes(&self, spec: &LayerSpec) -> Vec<(Part, Dtype, Vec<usize>)> {
        let (groups, outs) = (spec.groups(), spec.out_features);
        vec![
            (Part::QWeight, Dtype::I32, vec![spec.in_features, outs / OUTPUTS]),
            (Part::QZeros, Dtype::I32, vec![groups, outs / OUTPUTS]),
            (Part::Scales, Dtype::F16, vec![groups, outs]),
        ]
    }

    fn check(&self, _: &QuantizedMatrix, spec: &LayerSpec) -> Result<(), Error> {
        check(spec)?;
        rules::natural_groups(FORMAT, spec)
    }

    fn pack(
        &self,
        q: &QuantizedMatrix,
        spec: &LayerSpec,
    ) -> Result<Vec<RawTensor<'static>>, Error> {
        let words = |values: &Array2<u8>| RawTensor {
            dtype: Dtype::I32,
            shape: vec![values.ncols(), values.nrows() / OUTPUTS],
            bytes: encode(&pack(values.view()), u32::to_le_bytes).into_owned().into(),
        };
        let scales = half_scales(q)?;
        let scales = RawTensor {
            dtype: Dtype::F16,
            shape: vec![spec.groups(), spec.out_features],
            bytes: encode(&scales, half::f16::to_le_bytes).into_owned().into(),
        };
        Ok(vec![words(&q.codes), words(&q.zeros), scales])
    }

    fn unpack(&self, stored: Stored<'_, '_>, spec: &LayerSpec) -> Result<QuantizedMatrix, Error> {
        check(spec)?;
        let LayerSpec { in_features: ins, out_features: outs, .. } = *spec;
        let groups = spec.groups();
        let qweight = stored.need(Part::QWeight)?.words(Expected {
            part: Part::QWeight,
            shape: &[ins, outs / OUTPUTS],
            rule: "rows are in_features, columns out_features / 8",
        })?;
        let qzeros = stored.need(Part::QZeros)?.words(Expected {
            part: Part::QZeros,
            shape: &[groups, outs / OUTPUTS],
            rule: "rows are in_features / group_size, columns out_features / 8",
        })?;
        Ok(QuantizedMatrix {
            bits: Bits::B4,
            codes: unpack(&qweight, outs, ins),
            scales: gptq::read_scales(stored.need(Part::Scales)?, spec)?,
            zeros: unpack(&qzeros, outs, groups),
            g_idx: natural_g_idx(ins, spec.group_size.columns(ins))?,
        })
    }

    fn dims(&self, stored: Stored<'_, '_>, _: Width) -> Result<(usize, usize), Error> {
        let outs = stored.dim(Part::QWeight, 1)?.saturating_mul(OUTPUTS);
        Ok((stored.dim(Part::QWeight, 0)?, outs))
    }
}
