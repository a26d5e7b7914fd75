//! Rounding weights that have no grid of their own.

use half::f16;

use super::block::{BLOCK, Block, BlockType};

/// The block nearest to the weights, by ggml's reference formulas. `d` or `m` is not finite if a
/// weight is not, or if it is beyond half precision.
pub(super) fn nearest(w: &[f32; BLOCK], ty: BlockType) -> Block {
    let (d, m, shift) = match ty {
        _ if !w.iter().all(|w| w.is_finite()) => (f32::NAN, 0.0, 0.0),
        BlockType::Q4_0 => (largest(w) / -8.0, 0.0, 8.5),
        BlockType::Q5_0 => (largest(w) / -16.0, 0.0, 16.5),
        BlockType::Q8_0 => (largest(w).abs() / 127.0, 0.0, 128.0),
        BlockType::Q4_1 => {
            let (min, max) = w.iter().fold((f32::MAX, f32::MIN), |(a, b), &w| (a.min(w), b.max(w)));
            ((max - min) / 15.0, min, 0.5)
        }
    };
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let q = |w: &f32| {
        let steps = (w - m) * inverse;
        // Signed bytes are rounded half away from zero; the rest by cutting off after a shift.
        let steps = if ty == BlockType::Q8_0 { steps.round() + shift } else { steps + shift };
        (steps as u8).min(ty.largest() as u8)
    };
    Block { d: f16::from_f32(d), m: f16::from_f32(m), q: w.each_ref().map(q) }
}

/// The first weight of largest magnitude, with its sign.
fn largest(w: &[f32; BLOCK]) -> f32 {
    w.iter().fold(0.0, |top: f32, &w| if w.abs() > top.abs() { w } else { top })
}
