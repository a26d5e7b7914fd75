//! Products of small matrices, spread over the lanes of a warp.
//!
//! With `g` a lane's group of four and `t` its place there, a word of `A` holds neighbours of row
//! `g` or `g + 8`, a word of `B` neighbours of column `g`, and `C` has two columns at `2 t`.

use super::collective::Lanes;
use crate::inst::{MmaShape, Slot};
use crate::number::round::{bf16_value, f16_value, to_f16};
use crate::types::Ty;

/// One element of a word, whole numbers exact in `f64` too.
pub(super) fn element(ty: Ty, word: u64, at: usize) -> f64 {
    match ty {
        Ty::F16 => f16_value(word >> (16 * at)).into(),
        Ty::Bf16 => bf16_value(word >> (16 * at) & 0xffff).into(),
        // The lowest bits of such a number are not looked at.
        Ty::Tf32 => f32::from_bits(word as u32 & !0x1fff).into(),
        Ty::S8 => ((word >> (8 * at)) as i8).into(),
        _ => ((word >> (8 * at)) as u8).into(),
    }
}

/// How far a warpgroup's product goes along K.
pub(super) const DEPTH: usize = 16;

/// Products of 16 rows with eight columns of a warpgroup's product.
pub(super) fn sums(left: &[[f64; DEPTH]], right: &[[f64; DEPTH]]) -> [[f64; 8]; 16] {
    let columns: [[f64; 8]; DEPTH] = std::array::from_fn(|k| std::array::from_fn(|n| right[n][k]));
    let mut sums = [[0f64; 8]; 16];
    for (row, sum) in left.iter().zip(&mut sums) {
        for (x, column) in row.iter().zip(&columns) {
            sum.iter_mut().zip(column).for_each(|(sum, y)| *sum += x * y);
        }
    }
    sums
}

pub(super) fn multiply(
    lanes: &mut Lanes<'_>,
    shape: MmaShape,
    d: &[Slot],
    a: &[Slot],
    b: &[Slot],
    c: &[Slot],
) {
    let per_word = 4 / shape.a.size();
    let (mut left, mut right) = ([[0f64; 32]; 16], [[0f64; 8]; 32]);
    let first = lanes.group[0];
    for lane in 0..32 {
        let thread = first + lane;
        let (g, t) = (lane / 4, lane % 4);
        for (index, &slot) in a.iter().enumerate() {
            let word = lanes.get(thread, slot);
            let row = g + 8 * (index % 2);
            for at in 0..per_word {
                let k = (index / 2) * 4 * per_word + t * per_word + at;
                left[row][k] = element(shape.a, word, at);
            }
        }
        for (index, &slot) in b.iter().enumerate() {
            let word = lanes.get(thread, slot);
            for at in 0..per_word {
                let k = index * 4 * per_word + t * per_word + at;
                right[k][g] = element(shape.b, word, at);
            }
        }
    }
    let mut sums = [[0f64; 8]; 16];
    for (row, sum) in left.iter().zip(&mut sums) {
        for (x, column) in row.iter().zip(&right).take(shape.k) {
            sum.iter_mut().zip(column).for_each(|(sum, y)| *sum += x * y);
        }
    }
    for lane in 0..32 {
        let thread = first + lane;
        let (g, t) = (lane / 4, lane % 4);
        // Two sums of a row, then two of the row eight below.
        let sums: [f64; 4] = std::array::from_fn(|i| sums[g + 8 * (i / 2)][2 * t + i % 2]);
        match shape.d {
            Ty::F32 => {
                for (i, sum) in sums.into_iter().enumerate() {
                    let start = f32::from_bits(lanes.get(thread, c[i]) as u32);
                    let total = (f64::from(start) + sum) as f32;
                    lanes.set(thread, d[i], total.to_bits().into());
                }
            }
            Ty::F16 => {
                for row in 0..2 {
                    let start = lanes.get(thread, c[row]);
                    let low = to_f16(f64::from(f16_value(start)) + sums[2 * row]);
                    let high = to_f16(f64::from(f16_value(start >> 16)) + sums[2 * row + 1]);
                    lanes.set(thread, d[row], high << 16 | low);
                }
            }
            _ => {
                for (i, sum) in sums.into_iter().enumerate() {
                    let start = lanes.get(thread, c[i]) as i32;
                    let sum = sum as i32;
                    let total = match shape.saturate {
                        true => start.saturating_add(sum),
                        false => start.wrapping_add(sum),
                    };
                    lanes.set(thread, d[i], total as u32 as u64);
                }
            }
        }
    }
}
