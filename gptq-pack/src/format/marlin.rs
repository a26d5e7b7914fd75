//! Marlin: codes in the order in which its kernel's threads want them.
//!
//! The weight is cut into tiles of 16 inputs × 64 outputs, each one run of words. A tensor core
//! gives every thread of a warp eight codes of a tile: four inputs of one output, and the same four
//! of the output eight further on. They share a word (4 bits) or two (8 bits).

use std::borrow::Cow;

use gptq_core::{Bits, QuantizedMatrix};
use ndarray::{Array2, ArrayView2};

use super::{Format, LayerSpec, Layout, Stored, rules};
use crate::{
    Dtype, Error, RawTensor, Width,
    linear::half_scales,
    names::Part,
    tensors::{Expected, encode},
    view::natural_g_idx,
};

pub use super::marlin_ref::MarlinRef;

pub(super) struct Marlin;

pub(super) const FORMAT: Format = Format::Marlin;
/// Inputs of a tile.
const TILE_IN: usize = 16;
/// Outputs of a tile.
const TILE_OUT: usize = 64;
/// Words of a row of tiles for one output, at 4 bits.
const WORDS_PER_OUTPUT: usize = 2;

/// Which of a thread's eight codes lies in which field of its words.
const fn fields(bits: Bits) -> Option<[usize; 8]> {
    match bits {
        Bits::B4 => Some([0, 2, 4, 6, 1, 3, 5, 7]),
        Bits::B8 => Some([0, 2, 1, 3, 4, 6, 5, 7]),
        Bits::B2 | Bits::B3 => None,
    }
}

/// Where the codes lie: calls `each(word, shift, output, input)` for every code of a layer of whole
/// tiles.
fn for_each_code(
    bits: u32,
    fields: [usize; 8],
    (outs, ins): (usize, usize),
    mut each: impl FnMut(usize, u32, usize, usize),
) {
    let thread_words = bits as usize / 4;
    let firsts = (0..ins)
        .step_by(TILE_IN)
        .flat_map(|input| (0..outs).step_by(TILE_OUT).map(move |output| (output, input)));
    let threads = (0..32).flat_map(|thread| (0..4).map(move |warp| (thread, warp)));
    let mut word = 0;
    for (first_output, first_input) in firsts {
        for (thread, warp) in threads.clone() {
            let output = first_output + 16 * warp + thread / 4;
            let input = first_input + 2 * (thread % 4);
            for (position, code) in fields.into_iter().enumerate() {
                let bit = position as u32 * bits;
                let (output, input) = (output + 8 * (code / 4), input + [0, 1, 8, 9][code % 4]);
                each(word + bit as usize / 32, bit % 32, output, input);
            }
            word += thread_words;
        }
    }
}

/// Codes, out × in, as Marlin's words: in/16 × out·b/2 of them, row-major. What servers do with a
/// GPTQ checkpoint when they load it.
///
/// # Errors
/// [`Error::FormatRule`] for widths other than 4 and 8 bits, inputs that are no multiple of 16, and
/// outputs that are no multiple of 64; [`Error::TooWide`] for a code beyond the width.
pub fn repack(bits: Bits, codes: ArrayView2<'_, u8>) -> Result<Vec<u32>, Error> {
    let Some(fields) = fields(bits) else {
        let message = format!("its order is that of 4 and 8 bits, not of {}", bits.get());
        return Err(rules::broken(FORMAT, message));
    };
    let (outs, ins) = codes.dim();
    whole_tiles(ins, outs)?;
    if let Some(((row, column), &value)) = codes.indexed_iter().find(|&(_, &v)| v > bits.maxq()) {
        let (bits, maxq) = (bits.get(), bits.maxq());
        return Err(Error::TooWide { what: "code", row, column, value, bits, maxq });
    }
    let mut words = vec![0; codes.len() / 32 * bits.get() as usize];
    for_each_code(bits.get(), fields, codes.dim(), |word, shift, output, input| {
        words[word] |= u32::from(codes[[output, input]]) << shift;
    });
    Ok(words)
}

/// The codes of a layer that breaks no rule.
pub(super) fn read_words<'a>(
    stored: Stored<'_, 'a>,
    spec: &LayerSpec,
) -> Result<Cow<'a, [u32]>, Error> {
    check(spec)?;
    stored.need(Part::B)?.words(Expected {
        part: Part::B,
        shape: &[spec.in_features / TILE_IN, spec.out_features.saturating_mul(WORDS_PER_OUTPUT)],
        rule: "rows are in_features / 16, columns 2 · out_features",
    })
}

pub(super) fn scales_of(shape: &[usize]) -> Expected<'_> {
    let rule = "rows are in_features / group_size, columns out_features";
    Expected { part: Part::S, shape, rule }
}

fn whole_tiles(ins: usize, outs: usize) -> Result<(), Error> {
    rules::multiple(FORMAT, "in_features", ins, TILE_IN)?;
    rules::multiple(FORMAT, "out_features", outs, TILE_OUT)
}

/// Which output's scale stands `n`-th among those of one group. Threads read the scales of eight
/// outputs at once: those of their own columns if groups change on the way through the inputs,
/// those of their results if there is one group, which is applied at the end.
pub(super) fn scale_source(groups: usize, n: usize) -> usize {
    match groups {
        1 => n / 32 * 32 + 2 * (n % 32 / 8) + [0, 1, 8, 9, 16, 17, 24, 25][n % 8],
        _ => n / 64 * 64 + n % 64 / 8 + 8 * (n % 8),
    }
}

fn check(spec: &LayerSpec) -> Result<(), Error> {
    rules::width(FORMAT, spec.width, &[4], "write gptq, which servers turn into Marlin's order")?;
    if !spec.sym {
        return Err(rules::broken(
            FORMAT,
            "it holds no zero points, so sym must be true; write gptq_v2 or compressed-tensors"
                .to_owned(),
        ));
    }
    whole_tiles(spec.in_features, spec.out_features)?;
    rules::natural_groups(FORMAT, spec)
}

impl Layout for Marlin {
    fn parts(&self) -> &'static [Part] {
        &[Part::B, Part::S]
    }

    fn shapes(&self, spec: &LayerSpec) -> Vec<(Part, Dtype, Vec<usize>)> {
        let LayerSpec { in_features: ins, out_features: outs, .. } = *spec;
        let b = vec![ins / TILE_IN, outs.saturating_mul(WORDS_PER_OUTPUT)];
        vec![(Part::B, Dtype::I32, b), (Part::S, Dtype::F16, vec![spec.groups(), outs])]
    }

    /// The kernel's own limits are narrower than the order of its words needs.
    fn check(&self, _: &QuantizedMatrix, spec: &LayerSpec) -> Result<(), Error> {
        check(spec)?;
        let size = spec.group_size.columns(spec.in_features);
        if size != 128 && spec.groups() > 1 {
            return Err(rules::broken(
                FORMAT,
                format!("group_size must be -1 or 128, but is {size}; write gptq"),
            ));
        }
        rules::multiple(FORMAT, "in_features", spec.in_features, 128)?;
        rules::multiple(FORMAT, "out_features", spec.out_features, 256)
    }

    fn pack(
        &self,
        q: &QuantizedMatrix,
        spec: &LayerSpec,
    ) -> Result<Vec<RawTensor<'static>>, Error> {
        let outs = spec.out_features;
        let scales = half_scales(q)?;
        let scales: Vec<_> = scales
            .chunks(outs)
            .flat_map(|row| (0..outs).map(|n| row[scale_source(spec.groups(), n)]))
            .collect();
        let words = repack(q.bits, q.codes.view())?;
        Ok(vec![
            RawTensor {
                dtype: Dtype::I32,
                shape: vec![spec.in_features / TILE_IN, outs * WORDS_PER_OUTPUT],
                bytes: encode(&words, u32::to_le_bytes).into_owned().into(),
            },
            RawTensor {
                dtype: Dtype::F16,
                shape: vec![spec.groups(), outs],
                bytes: encode(&scales, half::f16::to_le_bytes).into_owned().into(),
            },
        ])
    }

    fn unpack(&self, stored: Stored<'_, '_>, spec: &LayerSpec) -> Result<QuantizedMatrix, Error> {
        let spec = LayerSpec { scattered: false, ..*spec };
        let words = read_words(stored, &spec)?;
        let LayerSpec { in_features: ins, out_features: outs, .. } = spec;
        let groups = spec.groups();
        let stored_scales = stored.need(Part::S)?.finite_floats(scales_of(&[groups, outs]))?;
        let mut codes = Array2::zeros((outs, ins));
        if let Some(fields) = fields(Bits::B4) {
            for_each_code(4, fields, (outs, ins), |word, shift, output, input| {
                codes[[output, input]] = (words[word] >> shift) as u8 & 0xf;
            });
        }
        let mut scales = Array2::zeros((outs, groups));
        for (g, row) in stored_scales.chunks(outs).enumerate() {
            for (n, &scale) in row.iter().enumerate() {
                scales[[scale_source(groups, n), g]] = scale;
            }
        }
        Ok(QuantizedMatrix {
            bits: Bits::B4,
            codes,
            scales,
            zeros: Array2::from_elem((outs, groups), spec.width.middle()),
            g_idx: natural_g_idx(ins, spec.group_size.columns(ins))?,
        })
    }

    fn dims(&self, stored: Stored<'_, '_>, _: Width) -> Result<(usize, usize), Error> {
        let ins = stored.dim(Part::B, 0)?.saturating_mul(TILE_IN);
        Ok((ins, stored.dim(Part::B, 1)? / WORDS_PER_OUTPUT))
    }
}
