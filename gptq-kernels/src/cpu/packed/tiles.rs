//! [`Tiles`]: packed weights in the order in which kernels read them.
//!
//! ```text
//! strip      STRIP neighbouring outputs; the last strip is padded with outputs nobody reads
//! group      2 lines of f16 scales, 1 line of zero points as bytes unless all are one, then lanes
//! lane       32 codes of each output of the strip: `bits` words (see quads.rs) of 4 lines
//! ```

use std::ops::Range;

use gptq_core::{Bits, QuantizedMatrix};
use half::f16;
use rayon::prelude::*;

use super::{
    lines::{Line, Lines, bytes, bytes_mut, halves, halves_mut},
    quads::{LANE, put},
    slots::Slots,
};

/// Outputs per strip: four vectors of AVX-512, eight of AVX2.
pub(crate) const STRIP: usize = 64;

/// One number for each output of a strip.
pub(crate) type Strip<T> = [T; STRIP];

/// Lines of one word of a strip.
pub(crate) const WORD: usize = STRIP / 16;

/// Lines of a group's scales.
const SCALES: usize = 2;

/// Packed weights, laid out for this machine.
#[derive(Clone, Debug)]
pub(crate) struct Tiles {
    pub(crate) bits: Bits,
    pub(crate) slots: Slots,
    lines: Lines,
    /// The zero points of every strip of every group where they are all the same: symmetric grids
    /// have nothing to read here.
    zeros: Option<Strip<u8>>,
}

/// One group of one strip.
pub(crate) struct Group<'a> {
    /// Half precision.
    pub(crate) scales: &'a Strip<u16>,
    pub(crate) zeros: &'a Strip<u8>,
    /// `bits` words of [`WORD`] lines for each lane.
    pub(crate) lanes: &'a [Line],
}

impl Tiles {
    pub(crate) fn new(matrix: &QuantizedMatrix) -> Self {
        let slots = Slots::new(&matrix.g_idx, matrix.groups());
        let strips = matrix.out_features().div_ceil(STRIP);
        let first = matrix.zeros.first();
        let same = first.filter(|zero| matrix.zeros.iter().all(|other| other == *zero));
        let zeros = same.map(|&zero| [zero; STRIP]);
        let mut tiles = Self { bits: matrix.bits, slots, lines: Lines::zeroed(0), zeros };
        tiles.lines = Lines::zeroed(strips * tiles.strip_lines());
        by_bits!(matrix.bits, BITS => tiles.fill::<BITS>(matrix));
        tiles
    }

    /// Lines before the lanes of a group.
    fn header(&self) -> usize {
        SCALES + usize::from(self.zeros.is_none())
    }

    fn strip_lines(&self) -> usize {
        let lanes = self.slots.lanes() * self.bits.get() as usize * WORD;
        self.slots.groups().len() * self.header() + lanes
    }

    fn fill<const BITS: usize>(&mut self, matrix: &QuantizedMatrix) {
        let (per_strip, header) = (self.strip_lines(), self.header());
        let Self { slots, lines, .. } = self;
        let strips = lines.par_chunks_mut(per_strip.max(1)).enumerate();
        strips.for_each(|(strip, lines)| {
            let outputs = strip * STRIP..matrix.out_features().min((strip + 1) * STRIP);
            for (k, r) in outputs.enumerate() {
                let codes = slots.gather(matrix.codes.row(r));
                for (g, range) in slots.groups().iter().enumerate() {
                    let at = g * header + range.start * BITS * WORD;
                    let (header, lanes) = lines[at..].split_at_mut(header);
                    set_header(header, k, matrix.scales[(r, g)], matrix.zeros[(r, g)]);
                    let codes = codes[range.start * LANE..].as_chunks::<LANE>().0;
                    let lanes = lanes.chunks_exact_mut(BITS * WORD);
                    for (words, codes) in lanes.zip(&codes[..range.len()]) {
                        let or = |w: usize, v: u32| words[w * WORD + k / 16].0[k % 16] |= v;
                        put::<BITS>(or, codes);
                    }
                }
            }
        });
    }

    /// One group of one strip.
    #[inline(always)]
    pub(crate) fn group(&self, strip: usize, g: usize) -> Group<'_> {
        let words = self.bits.get() as usize * WORD;
        let range = &self.slots.groups()[g];
        let at = strip * self.strip_lines() + g * self.header() + range.start * words;
        let (scales, rest) = self.lines[at..].split_first_chunk().expect("a header");
        let (zeros, lanes) = match &self.zeros {
            Some(zeros) => (zeros, rest),
            None => (bytes(&rest[0]), &rest[1..]),
        };
        Group { scales: halves(scales), zeros, lanes: &lanes[..range.len() * words] }
    }

    /// The lines of some lanes of a group.
    #[inline(always)]
    pub(crate) fn lanes<'a>(&self, group: &Group<'a>, g: usize, lanes: Range<usize>) -> &'a [Line] {
        let words = self.bits.get() as usize * WORD;
        let first = self.slots.groups()[g].start;
        &group.lanes[(lanes.start - first) * words..(lanes.end - first) * words]
    }

    /// Bytes that a product reads.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val::<[Line]>(&self.lines)
    }
}

fn set_header(header: &mut [Line], k: usize, scale: f32, zero: u8) {
    let (scales, zeros) = header.split_first_chunk_mut().expect("scales at least");
    halves_mut(scales)[k] = f16::from_f32(scale).to_bits();
    if let [zeros] = zeros {
        bytes_mut(zeros)[k] = zero;
    }
}
