//! Packed weights times one token. Reads every packed word once and nothing else of the layer.
//!
//! For each group, `Σ code · x` runs over raw codes; the zero point enters once per group as
//! `− zero · Σ x`, the scale as one factor.

use gptq_core::Bits;
use rayon::prelude::*;

use super::{
    isa::{Isa, Kernel, mul_add},
    prepare::{CpuPacked, LANE, code},
};

/// Outputs per task.
const OUTPUTS: usize = 256;
/// Outputs whose sums stay in registers.
const STRIP: usize = 32;

pub(crate) fn packed_matvec(isa: Isa, layer: &CpuPacked, x: &[f32], y: &mut [f32]) {
    let x = layer.in_slot_order(x);
    y.par_chunks_mut(OUTPUTS).enumerate().for_each(|(i, y)| {
        let (x, first) = (&*x, i * OUTPUTS);
        match layer.bits {
            Bits::B2 => isa.run(MatVec::<2> { layer, x, first, y }),
            Bits::B3 => isa.run(MatVec::<3> { layer, x, first, y }),
            Bits::B4 => isa.run(MatVec::<4> { layer, x, first, y }),
            Bits::B8 => isa.run(MatVec::<8> { layer, x, first, y }),
        }
    });
}

struct MatVec<'a, const BITS: usize> {
    layer: &'a CpuPacked,
    /// In slot order.
    x: &'a [f32],
    /// First output of `y`.
    first: usize,
    y: &'a mut [f32],
}

impl<const BITS: usize> Kernel for MatVec<'_, BITS> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { layer, x, first, y } = self;
        for (i, y) in y.chunks_mut(STRIP).enumerate() {
            let first = first + i * STRIP;
            // A full strip has a length the compiler knows.
            match y.as_chunks_mut::<STRIP>() {
                ([full], _) => strip::<BITS, STRIP, FMA>(layer, x, first, full),
                _ => {
                    for (k, y) in y.iter_mut().enumerate() {
                        let mut one = [0.0];
                        strip::<BITS, 1, FMA>(layer, x, first + k, &mut one);
                        *y = one[0];
                    }
                }
            }
        }
    }
}

/// `N` neighbouring outputs.
#[inline(always)]
fn strip<const BITS: usize, const N: usize, const FMA: bool>(
    layer: &CpuPacked,
    x: &[f32],
    first: usize,
    y: &mut [f32; N],
) {
    let outs = layer.out_features;
    *y = [0.0; N];
    for (group, lanes) in layer.groups() {
        let mut sums = [0f32; N];
        let mut total = 0.0;
        for lane in lanes {
            let mut words = [[0u32; N]; BITS];
            for (w, words) in words.iter_mut().enumerate() {
                let at = (lane * BITS + w) * outs + first;
                words.copy_from_slice(&layer.words[at..at + N]);
            }
            let x = &x[lane * LANE..(lane + 1) * LANE];
            for (n, &x) in x.iter().enumerate() {
                for k in 0..N {
                    // Through i32: unsigned conversion is slow before AVX-512.
                    let code = code::<BITS>(n, |w| words[w][k]) as i32 as f32;
                    sums[k] = mul_add::<FMA>(code, x, sums[k]);
                }
                total += x;
            }
        }
        let at = group * outs + first;
        let (scales, zeros) = (&layer.scales[at..at + N], &layer.zeros[at..at + N]);
        for k in 0..N {
            y[k] = mul_add::<FMA>(scales[k], sums[k] - zeros[k] * total, y[k]);
        }
    }
}
