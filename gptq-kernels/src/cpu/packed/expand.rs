//! Packed weights times many tokens as f32: a small panel of weights is expanded, multiplied,
//! forgotten. A layer is never expanded whole.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;

use super::{
    super::{
        gemm::product,
        isa::{Isa, Kernel},
    },
    half::{Element, F16},
    quads::{LANE, QUADS, quad},
    tiles::{STRIP, Strip, Tiles, WORD},
};

/// Lanes per panel: with `STRIP` outputs, 256 KiB of f32.
const LANES: usize = 32;

/// `y = x · Wᵀ` for one strip: `x` is tokens × slots, `y` tokens × outputs of the strip.
pub(crate) fn strip(
    isa: Isa,
    tiles: &Tiles,
    strip: usize,
    x: ArrayView2<'_, f32>,
    mut y: ArrayViewMut2<'_, f32>,
) {
    let lanes = tiles.slots.lanes();
    let outputs = y.ncols();
    let mut panel = vec![[0f32; STRIP]; LANES.min(lanes) * LANE];
    for start in (0..lanes).step_by(LANES) {
        let range = start..(start + LANES).min(lanes);
        let slots = range.start * LANE..range.end * LANE;
        let panel = &mut panel[..slots.len()];
        expand(isa, tiles, strip, range, panel);
        let weights = ArrayView2::from(&*panel);
        let x = x.slice(s![.., slots]);
        product(isa, 1.0, x, weights.slice(s![.., ..outputs]), y.view_mut(), start > 0);
    }
}

/// The weights, out × in, columns in the original order.
pub(crate) fn dequantize(isa: Isa, tiles: &Tiles, out_features: usize) -> Array2<f32> {
    let mut w = Array2::zeros((out_features, tiles.slots.in_features()));
    let strips = w.axis_chunks_iter_mut(Axis(0), STRIP).into_par_iter().enumerate();
    strips.for_each(|(strip, mut w)| {
        let lanes = tiles.slots.lanes();
        let mut panel = vec![[0f32; STRIP]; lanes * LANE];
        expand(isa, tiles, strip, 0..lanes, &mut panel);
        for (slot, values) in panel.iter().enumerate() {
            if let Some(channel) = tiles.slots.channel(slot) {
                w.column_mut(channel).iter_mut().zip(values).for_each(|(w, &v)| *w = v);
            }
        }
    });
    w
}

/// Writes the weights of some lanes of a strip as slots × outputs.
fn expand(isa: Isa, tiles: &Tiles, strip: usize, lanes: Range<usize>, panel: &mut [Strip<f32>]) {
    by_bits!(tiles.bits, BITS => isa.run(Expand::<BITS> { tiles, strip, lanes, panel }))
}

struct Expand<'a, const BITS: usize> {
    tiles: &'a Tiles,
    strip: usize,
    lanes: Range<usize>,
    panel: &'a mut [Strip<f32>],
}

impl<const BITS: usize> Kernel for Expand<'_, BITS> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (g, range) in self.tiles.slots.groups().iter().enumerate() {
            let lanes = range.start.max(self.lanes.start)..range.end.min(self.lanes.end);
            if lanes.is_empty() {
                continue;
            }
            let group = self.tiles.group(self.strip, g);
            let scales = group.scales.map(|scale| F16(scale).widen());
            let zeros = group.zeros.map(f32::from);
            let rows = (lanes.start - self.lanes.start) * LANE;
            let panel = self.panel[rows..].as_chunks_mut::<4>().0.chunks_exact_mut(QUADS);
            let words = self.tiles.lanes(&group, g, lanes).chunks_exact(BITS * WORD);
            for (words, panel) in words.zip(panel) {
                for (v, rows) in panel.iter_mut().enumerate() {
                    for k in 0..STRIP {
                        let codes = quad::<BITS>(|w| words[w * WORD + k / 16].0[k % 16], v);
                        for (b, row) in rows.iter_mut().enumerate() {
                            let code = (codes >> (8 * b) & 0xff) as i32 as f32;
                            row[k] = scales[k] * (code - zeros[k]);
                        }
                    }
                }
            }
        }
    }
}
