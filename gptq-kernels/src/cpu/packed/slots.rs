//! [`Slots`]: the order in which a packed layer wants its inputs.

use std::{borrow::Cow, ops::Range};

use ndarray::ArrayView1;

use super::quads::LANE;

/// A slot that no channel fills.
const EMPTY: u32 = u32::MAX;

/// Lanes per block: what shares a scale where activations are bytes.
pub(crate) const BLOCK: usize = 4;

/// Places of codes: groups one after the other, each padded to whole lanes. Scattered groups
/// (`desc_act`) become contiguous by sorting the inputs, once; products then gather their
/// activations in that order and never look at `g_idx` again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slots {
    in_features: usize,
    /// Slot → input channel, [`EMPTY`] for padding; `None` if slots are channels.
    order: Option<Vec<u32>>,
    /// The lanes of each group.
    groups: Vec<Range<usize>>,
}

impl Slots {
    /// `g_idx` is the group of each input.
    pub(crate) fn new(g_idx: &[u32], groups: usize) -> Self {
        let mut members = vec![Vec::new(); groups];
        for (channel, &group) in g_idx.iter().enumerate() {
            members[group as usize].push(channel as u32);
        }
        let mut order: Vec<u32> = Vec::with_capacity(g_idx.len());
        let mut lanes = Vec::with_capacity(groups);
        for channels in members {
            let begin = order.len() / LANE;
            order.extend(channels);
            order.resize(order.len().next_multiple_of(LANE), EMPTY);
            lanes.push(begin..order.len() / LANE);
        }
        let natural = order.len() == g_idx.len()
            && order.iter().enumerate().all(|(slot, &channel)| slot == channel as usize);
        Self { in_features: g_idx.len(), order: (!natural).then_some(order), groups: lanes }
    }

    pub(crate) fn in_features(&self) -> usize {
        self.in_features
    }

    /// Lanes of an output.
    pub(crate) fn lanes(&self) -> usize {
        self.groups.last().map_or(0, |lanes| lanes.end)
    }

    pub(crate) fn groups(&self) -> &[Range<usize>] {
        &self.groups
    }

    /// Every block: its group and its lanes, at most [`BLOCK`] of them and never of two groups.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        self.groups.iter().enumerate().flat_map(|(g, lanes)| {
            let end = lanes.end;
            lanes.clone().step_by(BLOCK).map(move |lane| (g, lane..end.min(lane + BLOCK)))
        })
    }

    /// Whether activations must be gathered before they meet the codes.
    pub(crate) fn reorders(&self) -> bool {
        self.order.is_some()
    }

    /// What belongs to channels, in slot order; borrowed if that is its order already.
    pub(crate) fn gather<'x, T: Copy + Default>(&self, x: ArrayView1<'x, T>) -> Cow<'x, [T]> {
        match (&self.order, x.to_slice()) {
            (None, Some(x)) => x.into(),
            (None, None) => x.to_vec().into(),
            (Some(order), _) => {
                let value = |&c: &u32| if c == EMPTY { T::default() } else { x[c as usize] };
                order.iter().map(value).collect::<Vec<T>>().into()
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
