//! A packed layer as the CPU's kernels want it: read from front to back, a strip of outputs at a
//! time, groups contiguous and each starting a fresh lane.
//!
//! ```text
//! strip      STRIP neighbouring outputs; the last strip is padded with outputs nobody reads
//! lane       32 consecutive codes of each output of a strip: `bits` rows of words
//! order      slot (place of a code) → input channel; a group that ends inside a lane is padded
//!            with empty slots
//! ```
//!
//! Scattered groups (`desc_act`) become contiguous by sorting the inputs, once, here; products then
//! gather their activations in that order and never look at `g_idx` again.

use std::{borrow::Cow, ops::Range};

use gptq_core::{Bits, QuantizedMatrix};
use gptq_pack::{PackedLinearRef, lane};

/// Codes per lane: the least number that fills whole words at every width.
pub(crate) const LANE: usize = 32;

/// Outputs per strip: four vectors of AVX-512, eight of AVX2.
pub(crate) const STRIP: usize = 64;

/// One number for each output of a strip.
pub(crate) type Strip<T> = [T; STRIP];

/// A slot that no channel fills.
const EMPTY: u32 = u32::MAX;

/// A layer laid out for `packed_matvec.rs` and `packed_matmul.rs`.
#[derive(Clone, Debug)]
pub struct CpuPacked {
    pub(crate) bits: Bits,
    pub(crate) in_features: usize,
    pub(crate) out_features: usize,
    /// strips × (lanes · bits).
    words: Vec<Strip<u32>>,
    /// Lane where each group begins, and one past the last.
    group_lanes: Vec<usize>,
    /// strips × groups.
    scales: Vec<Strip<f32>>,
    /// strips × groups.
    zeros: Vec<Strip<f32>>,
    /// Slot → input channel, [`EMPTY`] for padding; `None` if slots are channels.
    order: Option<Vec<u32>>,
    pub(crate) bias: Option<Vec<f32>>,
}

/// One group of one strip.
pub(crate) struct StripGroup<'a> {
    pub(crate) lanes: Range<usize>,
    pub(crate) scales: &'a Strip<f32>,
    pub(crate) zeros: &'a Strip<f32>,
}

impl CpuPacked {
    pub(crate) fn new(layer: &PackedLinearRef<'_>) -> Self {
        let matrix = layer.unpack();
        let (order, group_lanes) = slots(&matrix);
        let outs = matrix.out_features();
        let natural = order.len() == matrix.in_features()
            && order.iter().enumerate().all(|(slot, &channel)| slot == channel as usize);
        let mut packed = Self {
            bits: matrix.bits,
            in_features: matrix.in_features(),
            out_features: outs,
            words: pack_strips(&matrix, &order),
            group_lanes,
            scales: Vec::new(),
            zeros: Vec::new(),
            order: (!natural).then_some(order),
            bias: layer.bias().map(<[f32]>::to_vec),
        };
        for strip in 0..outs.div_ceil(STRIP) {
            for g in 0..matrix.groups() {
                let row = |k: usize| Some(strip * STRIP + k).filter(|&r| r < outs);
                let scale = |k| row(k).map_or(0.0, |r| matrix.scales[(r, g)]);
                let zero = |k| row(k).map_or(0.0, |r| f32::from(matrix.zeros[(r, g)]));
                packed.scales.push(std::array::from_fn(scale));
                packed.zeros.push(std::array::from_fn(zero));
            }
        }
        packed
    }

    /// Lanes per output.
    pub(crate) fn lanes(&self) -> usize {
        self.group_lanes.last().copied().unwrap_or(0)
    }

    /// The `bits` rows of words of one lane.
    #[inline(always)]
    pub(crate) fn lane(&self, strip: usize, lane: usize) -> &[Strip<u32>] {
        let bits = self.bits.get() as usize;
        let at = (strip * self.lanes() + lane) * bits;
        &self.words[at..at + bits]
    }

    /// The groups of one strip, in slot order.
    #[inline(always)]
    pub(crate) fn groups(&self, strip: usize) -> impl Iterator<Item = StripGroup<'_>> {
        let groups = self.group_lanes.len() - 1;
        (0..groups).map(move |g| StripGroup {
            lanes: self.group_lanes[g]..self.group_lanes[g + 1],
            scales: &self.scales[strip * groups + g],
            zeros: &self.zeros[strip * groups + g],
        })
    }

    /// Whether activations must be gathered before they meet the codes.
    pub(crate) fn reorders(&self) -> bool {
        self.order.is_some()
    }

    /// Activations of one token in slot order; borrowed if that is their order already.
    pub(crate) fn in_slot_order<'x>(&self, x: &'x [f32]) -> Cow<'x, [f32]> {
        match &self.order {
            None => x.into(),
            Some(order) => {
                let value = |&c: &u32| if c == EMPTY { 0.0 } else { x[c as usize] };
                order.iter().map(value).collect::<Vec<f32>>().into()
            }
        }
    }

    /// The channel of a slot, if any.
    pub(crate) fn channel(&self, slot: usize) -> Option<usize> {
        match &self.order {
            None => Some(slot),
            Some(order) => (order[slot] != EMPTY).then_some(order[slot] as usize),
        }
    }
}

/// Inputs sorted by group, every group padded to whole lanes.
fn slots(matrix: &QuantizedMatrix) -> (Vec<u32>, Vec<usize>) {
    let mut members = vec![Vec::new(); matrix.groups()];
    for (channel, &group) in matrix.g_idx.iter().enumerate() {
        members[group as usize].push(channel as u32);
    }
    let mut order: Vec<u32> = Vec::with_capacity(matrix.in_features());
    let mut group_lanes = vec![0];
    for channels in members {
        order.extend(channels);
        order.resize(order.len().next_multiple_of(LANE), EMPTY);
        group_lanes.push(order.len() / LANE);
    }
    (order, group_lanes)
}

fn pack_strips(matrix: &QuantizedMatrix, order: &[u32]) -> Vec<Strip<u32>> {
    let (outs, bits) = (matrix.out_features(), matrix.bits.get() as usize);
    let lanes = order.len() / LANE;
    let mut words = vec![[0; STRIP]; outs.div_ceil(STRIP) * lanes * bits];
    let mut one_lane = vec![0u32; bits];
    for r in 0..outs {
        let codes = matrix.codes.row(r);
        let strip = &mut words[r / STRIP * lanes * bits..(r / STRIP + 1) * lanes * bits];
        for (channels, rows) in order.chunks(LANE).zip(strip.chunks_mut(bits)) {
            let code = |&c: &u32| if c == EMPTY { 0 } else { codes[c as usize] };
            lane::pack(matrix.bits, channels.iter().map(code), &mut one_lane);
            for (row, &word) in rows.iter_mut().zip(&one_lane) {
                row[r % STRIP] = word;
            }
        }
    }
    words
}

/// Where code `n` of a lane begins: its word, the next one if it can reach there, and its shift.
#[inline(always)]
pub(crate) fn locate<const BITS: usize>(n: usize) -> (usize, usize, u32) {
    let (word, shift) = (n * BITS / 32, n * BITS % 32);
    let next = if 32 % BITS == 0 { word } else { (word + 1).min(BITS - 1) };
    (word, next, shift as u32)
}

/// The code at a place that [`locate`] gave, as f32. Without branches, so that a loop over outputs
/// becomes vector instructions.
#[inline(always)]
pub(crate) fn code<const BITS: usize>(low: u32, high: u32, shift: u32) -> f32 {
    let mut value = low >> shift;
    if 32 % BITS != 0 {
        // In two steps, because a shift by 32 is none.
        value |= high << 1 << (31 - shift);
    }
    // Through i32: unsigned conversion is slow before AVX-512.
    (value & ((1 << BITS) - 1)) as i32 as f32
}
