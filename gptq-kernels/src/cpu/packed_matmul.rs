//! Packed weights times many tokens: a small panel of weights is expanded, multiplied, forgotten.
//! A layer is never expanded whole.

use std::ops::Range;

use gptq_core::Bits;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;

use super::{
    gemm::{product, tiles},
    isa::{Isa, Kernel},
    prepare::{CpuPacked, LANE, STRIP, Strip, code, locate},
};

/// Lanes per panel: with `STRIP` outputs, 256 KiB of f32.
const LANES: usize = 32;

/// `y = x · Wᵀ`, tokens × out; `x` is tokens × in.
pub(crate) fn packed_matmul(
    isa: Isa,
    layer: &CpuPacked,
    x: ArrayView2<'_, f32>,
    y: ArrayViewMut2<'_, f32>,
) {
    let gathered = layer.reorders().then(|| in_slot_order(layer, x));
    let x = gathered.as_ref().map_or(x, |x| x.view());
    let (tokens, lanes) = (x.nrows(), layer.lanes());
    tiles(y, tokens, STRIP).into_par_iter().for_each(|mut tile| {
        let outputs = tile.view.ncols();
        let mut panel = vec![[0f32; STRIP]; LANES.min(lanes) * LANE];
        for start in (0..lanes).step_by(LANES) {
            let range = start..(start + LANES).min(lanes);
            let slots = range.start * LANE..range.end * LANE;
            let panel = &mut panel[..slots.len()];
            expand(isa, layer, tile.column / STRIP, range, panel);
            let weights = ArrayView2::from(&*panel);
            let x = x.slice(s![.., slots]);
            let y = tile.view.view_mut();
            product(1.0, x, weights.slice(s![.., ..outputs]), y, start > 0);
        }
    });
}

/// The weights, out × in, columns in the original order.
pub(crate) fn dequantize(isa: Isa, layer: &CpuPacked) -> Array2<f32> {
    let mut w = Array2::zeros((layer.out_features, layer.in_features));
    let strips = w.axis_chunks_iter_mut(Axis(0), STRIP).into_par_iter().enumerate();
    strips.for_each(|(strip, mut w)| {
        let mut panel = vec![[0f32; STRIP]; layer.lanes() * LANE];
        expand(isa, layer, strip, 0..layer.lanes(), &mut panel);
        for (slot, values) in panel.iter().enumerate() {
            if let Some(channel) = layer.channel(slot) {
                w.column_mut(channel).iter_mut().zip(values).for_each(|(w, &v)| *w = v);
            }
        }
    });
    w
}

fn in_slot_order(layer: &CpuPacked, x: ArrayView2<'_, f32>) -> Array2<f32> {
    let mut out = Array2::zeros((x.nrows(), layer.lanes() * LANE));
    let rows = out.axis_iter_mut(Axis(0)).into_par_iter().zip(x.axis_iter(Axis(0)));
    rows.for_each(|(mut out, x)| {
        let x = x.to_slice().expect("tensors are row-major");
        out.iter_mut().zip(&*layer.in_slot_order(x)).for_each(|(out, &x)| *out = x);
    });
    out
}

/// Writes the weights of some lanes of a strip as slots × outputs.
fn expand(
    isa: Isa,
    layer: &CpuPacked,
    strip: usize,
    lanes: Range<usize>,
    panel: &mut [Strip<f32>],
) {
    match layer.bits {
        Bits::B2 => isa.run(Expand::<2> { layer, strip, lanes, panel }),
        Bits::B3 => isa.run(Expand::<3> { layer, strip, lanes, panel }),
        Bits::B4 => isa.run(Expand::<4> { layer, strip, lanes, panel }),
        Bits::B8 => isa.run(Expand::<8> { layer, strip, lanes, panel }),
    }
}

struct Expand<'a, const BITS: usize> {
    layer: &'a CpuPacked,
    strip: usize,
    lanes: Range<usize>,
    panel: &'a mut [Strip<f32>],
}

impl<const BITS: usize> Kernel for Expand<'_, BITS> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for group in self.layer.groups(self.strip) {
            let begin = group.lanes.start.max(self.lanes.start);
            for lane in begin..group.lanes.end.min(self.lanes.end) {
                let words = self.layer.lane(self.strip, lane);
                let rows = (lane - self.lanes.start) * LANE;
                for (n, row) in self.panel[rows..rows + LANE].iter_mut().enumerate() {
                    let (low, high, shift) = locate::<BITS>(n);
                    let (low, high) = (&words[low], &words[high]);
                    for k in 0..STRIP {
                        let code = code::<BITS>(low[k], high[k], shift);
                        row[k] = group.scales[k] * (code - group.zeros[k]);
                    }
                }
            }
        }
    }
}
