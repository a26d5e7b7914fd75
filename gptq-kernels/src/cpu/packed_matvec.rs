//! Packed weights times one token. Reads every packed word once and nothing else of the layer.
//!
//! For each group, `Σ code · x` runs over raw codes; the zero point enters once per group as
//! `− zero · Σ x`, the scale as one factor.

use gptq_core::Bits;
use rayon::prelude::*;

use super::{
    isa::{Isa, Kernel, mul_add},
    prepare::{CpuPacked, LANE, STRIP, Strip, code, locate},
};

/// Strips per task.
const STRIPS: usize = 4;

pub(crate) fn packed_matvec(isa: Isa, layer: &CpuPacked, x: &[f32], y: &mut [f32]) {
    let x = layer.in_slot_order(x);
    y.par_chunks_mut(STRIPS * STRIP).enumerate().for_each(|(i, y)| {
        for (k, y) in y.chunks_mut(STRIP).enumerate() {
            let (x, strip) = (&*x, i * STRIPS + k);
            let sums = match layer.bits {
                Bits::B2 => isa.run(MatVec::<2> { layer, x, strip }),
                Bits::B3 => isa.run(MatVec::<3> { layer, x, strip }),
                Bits::B4 => isa.run(MatVec::<4> { layer, x, strip }),
                Bits::B8 => isa.run(MatVec::<8> { layer, x, strip }),
            };
            y.copy_from_slice(&sums[..y.len()]);
        }
    });
}

struct MatVec<'a, const BITS: usize> {
    layer: &'a CpuPacked,
    /// In slot order.
    x: &'a [f32],
    strip: usize,
}

impl<const BITS: usize> Kernel for MatVec<'_, BITS> {
    type Output = Strip<f32>;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> Strip<f32> {
        let mut y = [0f32; STRIP];
        for group in self.layer.groups(self.strip) {
            let mut sums = [0f32; STRIP];
            let mut total = 0.0;
            for lane in group.lanes {
                let words = self.layer.lane(self.strip, lane);
                let x = &self.x[lane * LANE..(lane + 1) * LANE];
                for (n, &x) in x.iter().enumerate() {
                    let (low, high, shift) = locate::<BITS>(n);
                    let (low, high) = (&words[low], &words[high]);
                    for k in 0..STRIP {
                        sums[k] = mul_add::<FMA>(code::<BITS>(low[k], high[k], shift), x, sums[k]);
                    }
                    total += x;
                }
            }
            for k in 0..STRIP {
                y[k] = mul_add::<FMA>(group.scales[k], sums[k] - group.zeros[k] * total, y[k]);
            }
        }
        y
    }
}
