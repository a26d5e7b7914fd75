//! How packed weights lie in a GPU's memory: in the order in which its tensor cores want them.
//!
//! A tile is 16 inputs × 64 outputs. Of it, lane (g, t) = (lane / 4, lane mod 4) has 16 pairs of
//! codes in `bits` words: pair 2j + h is inputs 8h + 2t and 8h + 2t + 1 of output g + 8j. A pair
//! lies 16 bits apart, so that one mask takes both. `cuda/codes.cuh` is the other half of this law.
//!
//! Of 4 bits, a tile is one of Marlin's, word for word; only the order of tiles is another. Kernels
//! ask how far it is from one to the next, so a file's words go to the GPU as they are.

use gptq_core::{Bits, QuantizedMatrix};
use rayon::prelude::*;

use super::half::Half;

/// Inputs and outputs of a tile, and tiles of a stage in depth.
pub(super) const DEEP: usize = 16;
pub(super) const WIDE: usize = 64;
pub(super) const STAGE: usize = 8;

/// Where no input is.
const NOWHERE: u32 = u32::MAX;

/// In which order inputs stand, so that a group is a run of whole tiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// The input of each column, a whole number of stages long.
    pub(super) index: Vec<u32>,
    pub(super) tiles_per_group: usize,
}

impl Order {
    /// Columns by group, in their own order within one; each group with as many columns as the
    /// largest, so that a column's place tells its group.
    pub(super) fn of(g_idx: &[u32], groups: usize) -> Self {
        let mut members = vec![Vec::new(); groups];
        for (input, &group) in (0..).zip(g_idx) {
            members[group as usize].push(input);
        }
        let most = members.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let size = most.next_multiple_of(DEEP);
        let mut index: Vec<u32> = Vec::with_capacity(groups * size);
        for (group, members) in members.iter().enumerate() {
            index.resize(group * size, NOWHERE);
            index.extend(members);
        }
        index.resize(index.len().next_multiple_of(DEEP * STAGE), NOWHERE);
        Self { index, tiles_per_group: size / DEEP }
    }

    pub(super) fn k_tiles(&self) -> usize {
        self.index.len() / DEEP
    }

    /// Whether column c is input c, as far as there are inputs.
    pub(super) fn is_natural(&self, inputs: usize) -> bool {
        (0..inputs as u32).eq(self.index.iter().copied().take(inputs))
    }
}

/// A layer's arrays.
pub(super) struct Tiles {
    /// [⌈out/64⌉][k_tiles][⌈bits/4⌉][32 lanes][≤ 4] words; of 3 bits, [3][32 lanes] in a tile.
    pub(super) codes: Vec<u32>,
    /// [groups][⌈out/64⌉][g][j] halves.
    pub(super) scales: Vec<u16>,
    /// The same; none if the kernels know them: of 4 bits, where all are the middle.
    pub(super) zeros: Option<Vec<u16>>,
    /// Scales are multiples of it: a power of two that brings the largest near one, so that no
    /// product with a code leaves the range where halves are precise.
    pub(super) unit: f32,
}

/// Halves of every output and group, [groups][⌈out/64⌉][g][j]: what a lane wants lies together.
fn by_lane((outputs, groups): (usize, usize), value: impl Fn(usize, usize) -> u16) -> Vec<u16> {
    let n_tiles = outputs.div_ceil(WIDE);
    let mut all = vec![0u16; groups * n_tiles * WIDE];
    for (at, slot) in all.iter_mut().enumerate() {
        let (group, n, g, j) = (at / WIDE / n_tiles, at / WIDE % n_tiles, at % WIDE / 8, at % 8);
        let output = n * WIDE + g + 8 * j;
        if output < outputs {
            *slot = value(output, group);
        }
    }
    all
}

/// Scales as a lane wants them, and their unit.
pub(super) fn scales(
    shape: (usize, usize),
    half: Half,
    scale: impl Fn(usize, usize) -> f32,
) -> (Vec<u16>, f32) {
    let all = (0..shape.0).flat_map(|r| (0..shape.1).map(move |g| (r, g)));
    let largest = all.fold(0f32, |most, (r, g)| most.max(scale(r, g).abs()));
    let unit = if largest > 0.0 { 2f32.powi(largest.log2().floor() as i32 + 1) } else { 1.0 };
    (by_lane(shape, |r, g| half.bits(scale(r, g) / unit)), unit)
}

impl Tiles {
    pub(super) fn new(matrix: &QuantizedMatrix, order: &Order, half: Half) -> Self {
        let (outputs, groups) = (matrix.out_features(), matrix.groups());
        let bits = matrix.bits;
        let (scales, unit) = scales((outputs, groups), half, |r, g| matrix.scales[(r, g)]);
        let middle = 1u8 << (bits.get() - 1);
        let symmetric = matrix.zeros.iter().all(|&zero| zero == middle);
        let zero = |r, g| half.bits(f32::from(matrix.zeros[(r, g)]));
        let zeros = || by_lane((outputs, groups), zero);
        Self {
            codes: codes(matrix, order),
            scales,
            zeros: (!symmetric || matrix.bits != Bits::B4).then(zeros),
            unit,
        }
    }
}

fn codes(matrix: &QuantizedMatrix, order: &Order) -> Vec<u32> {
    let (outputs, bits, k_tiles) =
        (matrix.out_features(), matrix.bits.get() as usize, order.k_tiles());
    let mut words = vec![0u32; outputs.div_ceil(WIDE) * k_tiles * 32 * bits];
    // Words that one instruction loads lie together; three are loaded one by one.
    let run = if bits == 3 { 1 } else { bits.min(4) };
    words.par_chunks_mut(k_tiles * 32 * bits).enumerate().for_each(|(n, strip)| {
        for (tile, inputs) in strip.chunks_mut(32 * bits).zip(order.index.chunks(DEEP)) {
            for lane in 0..32 {
                let (g, t) = (lane / 4, lane % 4);
                let mut pairs = [(0, 0); 16];
                for (p, pair) in pairs.iter_mut().enumerate() {
                    let (output, k) = (n * WIDE + g + p / 2 * 8, p % 2 * 8 + 2 * t);
                    let code = |input: u32| match input {
                        NOWHERE => 0,
                        _ if output >= outputs => 0,
                        input => u32::from(matrix.codes[(output, input as usize)]),
                    };
                    *pair = (code(inputs[k]), code(inputs[k + 1]));
                }
                for (w, word) in lane_words(matrix.bits, &pairs).into_iter().take(bits).enumerate()
                {
                    tile[(w / run * 32 + lane) * run + w % run] = word;
                }
            }
        }
    });
    words
}

/// Pair i of a word at bits `i · bits` and `16 + i · bits`; of 3 bits, the last pair on top of all
/// three words.
fn lane_words(bits: Bits, pairs: &[(u32, u32); 16]) -> [u32; 8] {
    let bits = bits.get() as usize;
    let per_word = 16 / bits;
    let mut words = [0; 8];
    for (p, &(low, high)) in pairs.iter().enumerate() {
        let pair = low | high << 16;
        match words[..bits].get_mut(p / per_word) {
            Some(word) => *word |= pair << (p % per_word * bits),
            None => {
                for (b, word) in words[..bits].iter_mut().enumerate() {
                    *word |= (pair >> b & 0x0001_0001) << 15;
                }
            }
        }
    }
    words
}
