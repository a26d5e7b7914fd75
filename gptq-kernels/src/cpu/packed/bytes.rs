//! [`Bytes`]: activations as signed bytes, in slot order.

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::{
    super::isa::{Isa, Kernel},
    quads::LANE,
    slots::Slots,
};

/// Tokens are padded to a multiple of this, with zeros: two tiles of AMX.
pub(crate) const TOKENS: usize = 32;

/// Bytes that a kernel may read past a block. They also keep rows from meeting in one set of a
/// cache, as they would at distances that are powers of two.
const PAST: usize = 64;

/// Activations with `x ≈ factor · byte`, one factor for every token and block of at most 128 slots
/// (`absmax / 127`).
pub(crate) struct Bytes {
    /// tokens × stride.
    bytes: Vec<i8>,
    /// Slots, and [`PAST`] bytes more.
    stride: usize,
    /// Tokens and padding.
    tokens: usize,
    /// blocks × tokens.
    factors: Vec<f32>,
    /// blocks × tokens: sums of bytes.
    totals: Vec<f32>,
}

impl Bytes {
    /// Rounds activations of tokens × in.
    pub(crate) fn new(isa: Isa, slots: &Slots, x: ArrayView2<'_, f32>) -> Self {
        let stride = slots.lanes() * LANE + PAST;
        let count = slots.blocks().count();
        let tokens = if x.nrows() == 1 { 1 } else { x.nrows().next_multiple_of(TOKENS) };
        let mut bytes = vec![0; tokens * stride];
        let mut numbers = vec![(0.0, 0.0); tokens * count];
        let round = |t: usize, bytes: &mut [i8], numbers: &mut [(f32, f32)]| {
            let row = slots.gather(x.row(t));
            for (number, (_, lanes)) in numbers.iter_mut().zip(slots.blocks()) {
                let range = lanes.start * LANE..lanes.end * LANE;
                *number = isa.run(Round { x: &row[range.clone()], bytes: &mut bytes[range] });
            }
        };
        if x.nrows() == 1 {
            round(0, &mut bytes, &mut numbers);
        } else {
            let rows = bytes.par_chunks_mut(stride).zip(numbers.par_chunks_mut(count.max(1)));
            let rows = rows.take(x.nrows()).enumerate();
            rows.for_each(|(t, (bytes, numbers))| round(t, bytes, numbers));
        }
        let by_block = |of: fn(&(f32, f32)) -> f32| {
            let at = |i: usize| of(&numbers[i % tokens * count + i / tokens]);
            (0..tokens * count).map(at).collect()
        };
        Self { factors: by_block(|n| n.0), totals: by_block(|n| n.1), bytes, stride, tokens }
    }

    /// Bytes of a token from a lane on, to the end of all.
    #[inline(always)]
    pub(crate) fn from(&self, token: usize, lane: usize) -> &[i8] {
        &self.bytes[token * self.stride + lane * LANE..]
    }

    /// Bytes from one token to the next.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// Factors of a block, by token.
    #[inline(always)]
    pub(crate) fn factors(&self, block: usize) -> &[f32] {
        &self.factors[block * self.tokens..][..self.tokens]
    }

    /// Sums of the bytes of a block, by token.
    #[inline(always)]
    pub(crate) fn totals(&self, block: usize) -> &[f32] {
        &self.totals[block * self.tokens..][..self.tokens]
    }
}

/// Rounds a block to the nearest bytes, of halves to the even one. Returns factor and sum.
struct Round<'a> {
    x: &'a [f32],
    bytes: &'a mut [i8],
}

impl Kernel for Round<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn run<const FMA: bool>(self) -> (f32, f32) {
        // As integers, sizes are in the same order, and NaN is the largest.
        let largest = self.x.iter().fold(0, |m, x| m.max(x.to_bits() & 0x7fff_ffff));
        let largest = f32::from_bits(largest);
        // What is so small that its reciprocal is not a number is nothing.
        if largest < 1e-30 {
            self.bytes.fill(0);
            return (0.0, 0.0);
        }
        // Adding this leaves an integer in the last bits, rounded as f32 is.
        const MAGIC: f32 = 12_582_912.0;
        let up = 127.0 / largest;
        let mut total = 0;
        for (byte, x) in self.bytes.iter_mut().zip(self.x) {
            let rounded = (x * up + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32;
            *byte = rounded as i8;
            total = i32::wrapping_add(total, rounded);
        }
        (largest / 127.0, total as f32)
    }
}
