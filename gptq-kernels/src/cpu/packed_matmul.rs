//! Packed weights times many tokens: a small panel of weights is expanded, multiplied, forgotten.
//! A layer is never expanded whole.

use gptq_core::Bits;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;

use super::{
    gemm::{product, tiles},
    isa::{Isa, Kernel},
    prepare::{CpuPacked, LANE, code},
};

/// Outputs per panel: a multiple of every vector width.
const OUTPUTS: usize = 64;
/// Lanes per panel: with `OUTPUTS`, 256 KiB of f32 at the most.
const LANES: usize = 32;

/// `y = x · Wᵀ`, tokens × out; `x` is tokens × in.
pub(crate) fn packed_matmul(
    isa: Isa,
    layer: &CpuPacked,
    x: ArrayView2<'_, f32>,
    y: ArrayViewMut2<'_, f32>,
) {
    let gathered = layer.order.is_some().then(|| in_slot_order(layer, x));
    let x = gathered.as_ref().map_or(x, |x| x.view());
    let lanes = layer.slots() / LANE;
    let tokens = x.nrows();
    tiles(y, tokens, OUTPUTS).into_par_iter().for_each(|mut tile| {
        let outputs = tile.view.ncols();
        let mut panel = vec![0f32; LANES.min(lanes) * LANE * outputs];
        for start in (0..lanes).step_by(LANES) {
            let end = (start + LANES).min(lanes);
            let rows = (end - start) * LANE;
            let panel = &mut panel[..rows * outputs];
            expand(isa, layer, start..end, tile.column, outputs, panel);
            let panel = ArrayView2::from_shape((rows, outputs), &*panel);
            let panel = panel.expect("the panel was cut to this shape");
            let x = x.slice(s![.., start * LANE..end * LANE]);
            product(1.0, x, panel, tile.view.view_mut(), start > 0);
        }
    });
}

/// The weights, out × in, columns in the original order.
pub(crate) fn dequantize(isa: Isa, layer: &CpuPacked) -> Array2<f32> {
    let (outs, slots) = (layer.out_features, layer.slots());
    let mut by_slot = vec![0f32; slots * outs];
    expand(isa, layer, 0..slots / LANE, 0, outs, &mut by_slot);
    let mut w = Array2::zeros((outs, layer.in_features));
    for (slot, values) in by_slot.chunks(outs).enumerate() {
        if let Some(channel) = layer.channel(slot) {
            w.column_mut(channel).iter_mut().zip(values).for_each(|(w, &v)| *w = v);
        }
    }
    w
}

fn in_slot_order(layer: &CpuPacked, x: ArrayView2<'_, f32>) -> Array2<f32> {
    let mut out = Array2::zeros((x.nrows(), layer.slots()));
    out.axis_iter_mut(Axis(0)).into_par_iter().zip(x.axis_iter(Axis(0))).for_each(
        |(mut out, x)| {
            let x = x.to_slice().expect("tensors are row-major");
            out.iter_mut().zip(&*layer.in_slot_order(x)).for_each(|(out, &x)| *out = x);
        },
    );
    out
}

/// Writes the weights of some lanes and outputs as slots × outputs.
fn expand(
    isa: Isa,
    layer: &CpuPacked,
    lanes: std::ops::Range<usize>,
    first: usize,
    outputs: usize,
    panel: &mut [f32],
) {
    match layer.bits {
        Bits::B2 => isa.run(Expand::<2> { layer, lanes, first, outputs, panel }),
        Bits::B3 => isa.run(Expand::<3> { layer, lanes, first, outputs, panel }),
        Bits::B4 => isa.run(Expand::<4> { layer, lanes, first, outputs, panel }),
        Bits::B8 => isa.run(Expand::<8> { layer, lanes, first, outputs, panel }),
    }
}

struct Expand<'a, const BITS: usize> {
    layer: &'a CpuPacked,
    lanes: std::ops::Range<usize>,
    first: usize,
    outputs: usize,
    panel: &'a mut [f32],
}

impl<const BITS: usize> Kernel for Expand<'_, BITS> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { layer, lanes, first, outputs, panel } = self;
        let outs = layer.out_features;
        for (group, group_lanes) in layer.groups() {
            let at = group * outs + first;
            let scales = &layer.scales[at..at + outputs];
            let zeros = &layer.zeros[at..at + outputs];
            let begin = group_lanes.start.max(lanes.start);
            for lane in begin..group_lanes.end.min(lanes.end) {
                let word = |w: usize| {
                    let at = (lane * BITS + w.min(BITS - 1)) * outs + first;
                    &layer.words[at..at + outputs]
                };
                let rows = (lane - lanes.start) * LANE;
                for n in 0..LANE {
                    let (low, high) = (word(n * BITS / 32), word(n * BITS / 32 + 1));
                    let row = &mut panel[(rows + n) * outputs..(rows + n + 1) * outputs];
                    for k in 0..outputs {
                        let pick = |w| if w == n * BITS / 32 { low[k] } else { high[k] };
                        let code = code::<BITS>(n, pick) as i32 as f32;
                        row[k] = scales[k] * (code - zeros[k]);
                    }
                }
            }
        }
    }
}
