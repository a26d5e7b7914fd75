//! Dense weights as codes of 8 bits, where products take bytes anyway.

use gptq_core::{Bits, QuantizedMatrix};
use half::f16;
use ndarray::{Array2, ArrayView2, Axis, s};
use rayon::prelude::*;

/// Inputs per scale: small enough that an error of rounding stays below that of activations.
const GROUP: usize = 64;

/// Zero in the middle, so that the codes are signed bytes.
const ZERO: u8 = 128;

/// Codes with `|code − 128| ≤ 127` and scales of `absmax / 127`, rounded up to half precision.
/// `None` where a weight is too large for such a scale, or no number.
pub(crate) fn quantize(weight: ArrayView2<'_, f32>) -> Option<QuantizedMatrix> {
    let (outs, ins) = weight.dim();
    let groups = ins.div_ceil(GROUP);
    let mut codes = Array2::from_elem((outs, ins), ZERO);
    let mut scales = Array2::zeros((outs, groups));
    let rows = codes.axis_iter_mut(Axis(0)).into_par_iter().zip(scales.axis_iter_mut(Axis(0)));
    rows.zip(weight.axis_iter(Axis(0))).for_each(|((mut codes, mut scales), weight)| {
        for (g, scale) in scales.iter_mut().enumerate() {
            let range = g * GROUP..((g + 1) * GROUP).min(ins);
            let weight = weight.slice(s![range.clone()]);
            // NaN stays.
            let largest = weight.iter().fold(0f32, |m, w| if w.abs() <= m { m } else { w.abs() });
            *scale = half_above(largest / 127.0);
            let up = if *scale > 0.0 { 1.0 / *scale } else { 0.0 };
            // Adding this leaves an integer in the last bits, rounded as f32 is.
            const MAGIC: f32 = 12_582_912.0 + ZERO as f32;
            for (code, w) in codes.slice_mut(s![range]).iter_mut().zip(weight) {
                *code = (w * up + MAGIC).to_bits() as u8;
            }
        }
    });
    scales.iter().all(|scale| scale.is_finite()).then(|| QuantizedMatrix {
        bits: Bits::B8,
        zeros: Array2::from_elem((outs, groups), ZERO),
        g_idx: (0..ins).map(|c| (c / GROUP) as u32).collect(),
        codes,
        scales,
    })
}

/// The nearest half-precision number that is not less.
fn half_above(x: f32) -> f32 {
    let near = f16::from_f32(x);
    if near.to_f32() >= x { near.to_f32() } else { f16::from_bits(near.to_bits() + 1).to_f32() }
}
