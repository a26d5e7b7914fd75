//! A packed layer as the CPU's kernels want it: groups contiguous, each starting a fresh lane.
//!
//! ```text
//! slots      32 consecutive codes of one output: a lane, `bits` words
//! words      [lane · bits + word][output], so that neighbouring outputs are neighbours in memory
//! order      slot → input channel; a group that ends inside a lane is padded with empty slots
//! ```
//!
//! Scattered groups (`desc_act`) become contiguous by sorting the inputs, once, here; products then
//! gather their activations in that order and never look at `g_idx` again.

use gptq_core::{Bits, QuantizedMatrix};
use gptq_pack::{PackedLinearRef, lane};

/// Codes per lane: the least number that fills whole words at every width.
pub(crate) const LANE: usize = 32;

/// A layer laid out for `packed_matvec.rs` and `packed_matmul.rs`.
#[derive(Clone, Debug)]
pub struct CpuPacked {
    pub(crate) bits: Bits,
    pub(crate) in_features: usize,
    pub(crate) out_features: usize,
    /// lanes · bits × out.
    pub(crate) words: Vec<u32>,
    /// Lane where each group begins, and one past the last.
    pub(crate) group_lanes: Vec<usize>,
    /// groups × out.
    pub(crate) scales: Vec<f32>,
    /// groups × out.
    pub(crate) zeros: Vec<f32>,
    /// Slot → input channel, [`EMPTY`] for padding; `None` if slots are channels.
    pub(crate) order: Option<Vec<u32>>,
    pub(crate) bias: Option<Vec<f32>>,
}

/// A slot that no channel fills.
const EMPTY: u32 = u32::MAX;

impl CpuPacked {
    pub(crate) fn new(layer: &PackedLinearRef<'_>) -> Self {
        let matrix = layer.unpack();
        let (order, group_lanes) = slots(&matrix);
        let outs = matrix.out_features();
        let width = matrix.bits.get() as usize;
        let lanes = order.len() / LANE;
        let mut words = vec![0u32; lanes * width * outs];
        let mut codes = [0u8; LANE];
        let mut packed = vec![0u32; width];
        for lane in 0..lanes {
            for r in 0..outs {
                let channels = &order[lane * LANE..(lane + 1) * LANE];
                for (code, &channel) in codes.iter_mut().zip(channels) {
                    *code = if channel == EMPTY { 0 } else { matrix.codes[(r, channel as usize)] };
                }
                lane::pack(matrix.bits, codes, &mut packed);
                for (w, &word) in packed.iter().enumerate() {
                    words[(lane * width + w) * outs + r] = word;
                }
            }
        }
        let in_features = matrix.in_features();
        let natural =
            order.len() == in_features && order.iter().enumerate().all(|(s, &c)| s == c as usize);
        Self {
            bits: matrix.bits,
            in_features,
            out_features: outs,
            words,
            group_lanes,
            scales: matrix.scales.t().iter().copied().collect(),
            zeros: matrix.zeros.t().iter().map(|&z| f32::from(z)).collect(),
            order: (!natural).then_some(order),
            bias: layer.bias().map(<[f32]>::to_vec),
        }
    }

    /// Slots per output, padding included.
    pub(crate) fn slots(&self) -> usize {
        self.group_lanes.last().map_or(0, |lanes| lanes * LANE)
    }

    /// The group of every lane, with the lanes it spans.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
        self.group_lanes.windows(2).map(|w| w[0]..w[1]).enumerate()
    }

    /// Activations of one token in slot order; borrowed if that is their order already.
    pub(crate) fn in_slot_order<'x>(&self, x: &'x [f32]) -> std::borrow::Cow<'x, [f32]> {
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

/// Code `n` of a lane for one output: `word(w)` gives the lane's words.
#[inline(always)]
pub(crate) fn code<const BITS: usize>(n: usize, word: impl Fn(usize) -> u32) -> u32 {
    let (at, shift) = (n * BITS / 32, n * BITS % 32);
    let low = word(at) >> shift;
    let straddles = shift + BITS > 32;
    let value = if straddles { low | word(at + 1) << (32 - shift) } else { low };
    value & ((1 << BITS) - 1)
}
