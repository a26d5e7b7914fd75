//! `gptq_p`: GPTQModel's bit planes. The tensors are those of `gptq_v2`, the words are not.
//!
//! 32 codes of `b` bits are `b` words: first a plane of the low bits, then one or two of the bits
//! above, each of a width that divides a word. In a plane of width `w`, code `n` has bits `w·n` on.

use gptq_core::QuantizedMatrix;
use ndarray::Array2;

use super::{Format, LayerSpec, Layout, Stored, gptq, rules};
use crate::{
    Dtype, Error, RawTensor, Width,
    lane::{self, LANE},
    names::Part,
    tensors::Expected,
    view::{natural_g_idx, read_g_idx},
};

pub(super) struct Planar;

/// Widths of the planes, lowest bits first.
const fn planes(width: Width) -> &'static [u32] {
    match width.get() {
        3 => &[2, 1],
        5 => &[4, 1],
        6 => &[4, 2],
        7 => &[4, 2, 1],
        2 => &[2],
        4 => &[4],
        _ => &[8],
    }
}

/// Code `n` of a stream of whole blocks.
fn code_at(width: Width, n: usize, word: impl Fn(usize) -> u32) -> u8 {
    let (block, n) = (n / LANE * width.get() as usize, n % LANE);
    let (mut code, mut below) = (0, 0);
    for &w in planes(width) {
        let (first, bit) = (block + below as usize, n * w as usize);
        let field = word(first + bit / 32) >> (bit % 32) & ((1 << w) - 1);
        code |= field << below;
        below += w;
    }
    code as u8
}

fn check_dims(spec: &LayerSpec) -> Result<(), Error> {
    rules::multiple(Format::GptqP, "in_features", spec.in_features, LANE)?;
    rules::multiple(Format::GptqP, "out_features", spec.out_features, LANE)
}

impl Layout for Planar {
    fn parts(&self) -> &'static [Part] {
        &gptq::PARTS
    }

    fn shapes(&self, spec: &LayerSpec) -> Vec<(Part, Dtype, Vec<usize>)> {
        gptq::shapes(spec)
    }

    fn check(&self, _: &QuantizedMatrix, _: &LayerSpec) -> Result<(), Error> {
        let message = "it is read, but not written; write gptq_v2, which more tools load";
        Err(rules::broken(Format::GptqP, message.to_owned()))
    }

    fn pack(
        &self,
        q: &QuantizedMatrix,
        spec: &LayerSpec,
    ) -> Result<Vec<RawTensor<'static>>, Error> {
        self.check(q, spec).map(|()| Vec::new())
    }

    fn unpack(&self, stored: Stored<'_, '_>, spec: &LayerSpec) -> Result<QuantizedMatrix, Error> {
        check_dims(spec)?;
        let LayerSpec { in_features: ins, out_features: outs, width, .. } = *spec;
        let (groups, row_words) = (spec.groups(), lane::words_of(width.get(), outs));
        let qweight = stored.need(Part::QWeight)?.words(Expected {
            part: Part::QWeight,
            shape: &[lane::words_of(width.get(), ins), outs],
            rule: "rows are in_features · bits / 32, columns out_features",
        })?;
        let qzeros = stored.need(Part::QZeros)?.words(Expected {
            part: Part::QZeros,
            shape: &[groups, row_words],
            rule: "rows are ⌈in_features / group_size⌉, columns out_features · bits / 32",
        })?;
        let scales = gptq::read_scales(stored.need(Part::Scales)?, spec)?;
        let g_idx = match stored.get(Part::GIdx) {
            Some(tensor) => read_g_idx(Part::GIdx, tensor, ins, groups)?.into_owned(),
            None => natural_g_idx(ins, spec.group_size.columns(ins))?,
        };
        let code = |(r, c)| width.offset() + code_at(width, c, |word| qweight[word * outs + r]);
        let zero = |(r, g)| width.offset() + code_at(width, r, |word| qzeros[g * row_words + word]);
        Ok(QuantizedMatrix {
            bits: width.bits(),
            codes: Array2::from_shape_fn((outs, ins), code),
            scales,
            zeros: Array2::from_shape_fn((outs, groups), zero),
            g_idx,
        })
    }

    fn dims(&self, stored: Stored<'_, '_>, width: Width) -> Result<(usize, usize), Error> {
        gptq::dims(stored, width)
    }
}
