//! Packed weights times one token as f32. Reads every packed word once and nothing else of the
//! layer.
//!
//! For each group, `Σ code · x` runs over raw codes; the zero point enters once per group as
//! `− zero · Σ x`, the scale as one factor.

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::{
    super::isa::{Isa, Kernel, mul_add, total},
    half::{Element, F16},
    lines::Line,
    quads::{LANE, quad},
    tiles::{Strip, Tiles, WORD},
};

/// `y = W · x` for one strip; `x` is in slot order.
pub(crate) fn strip(isa: Isa, tiles: &Tiles, strip: usize, x: &[f32], y: &mut Strip<f32>) {
    let sum = by_bits!(tiles.bits, BITS => sum::<BITS>);
    y.fill(0.0);
    for (g, lanes) in tiles.slots.groups().iter().enumerate() {
        let group = tiles.group(strip, g);
        let x = &x[lanes.start * LANE..lanes.end * LANE];
        let mut sums = [0.0; _];
        sum(isa, group.lanes, x, &mut sums);
        isa.run(Scale { scales: group.scales, zeros: group.zeros, x, sums: &sums, y });
    }
}

/// `Σ code · x` of a group.
fn sum<const BITS: usize>(isa: Isa, lanes: &[Line], x: &[f32], sums: &mut Strip<f32>) {
    #[cfg(target_arch = "x86_64")]
    if isa.has_avx512() {
        // SAFETY: the level says that the CPU has the instructions.
        return unsafe { avx512::sum::<BITS>(lanes, x, sums) };
    }
    isa.run(Sum::<BITS> { lanes, x, sums });
}

struct Sum<'a, const BITS: usize> {
    lanes: &'a [Line],
    x: &'a [f32],
    sums: &'a mut Strip<f32>,
}

impl<const BITS: usize> Kernel for Sum<'_, BITS> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        // As many outputs at a time as there are registers for their sums.
        const PART: usize = 32;
        for (part, sums) in self.sums.as_chunks_mut::<PART>().0.iter_mut().enumerate() {
            let lanes = self.lanes.chunks_exact(BITS * WORD).zip(self.x.as_chunks::<LANE>().0);
            for (words, x) in lanes {
                for (v, x) in x.as_chunks::<4>().0.iter().enumerate() {
                    let word = |k: usize| {
                        let k = part * PART + k;
                        quad::<BITS>(|w| words[w * WORD + k / 16].0[k % 16], v)
                    };
                    let codes: [u32; PART] = std::array::from_fn(word);
                    for (b, &x) in x.iter().enumerate() {
                        for (sum, codes) in sums.iter_mut().zip(codes) {
                            // Through i32: unsigned conversion is slow before AVX-512.
                            let code = (codes >> (8 * b) & 0xff) as i32 as f32;
                            *sum = mul_add::<FMA>(code, x, *sum);
                        }
                    }
                }
            }
        }
    }
}

/// `y += scale · (sum − zero · Σ x)`.
struct Scale<'a> {
    scales: &'a Strip<u16>,
    zeros: &'a Strip<u8>,
    x: &'a [f32],
    sums: &'a Strip<f32>,
    y: &'a mut Strip<f32>,
}

impl Kernel for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let mut totals = [0f32; LANE];
        for x in self.x.as_chunks::<LANE>().0 {
            for (total, x) in totals.iter_mut().zip(x) {
                *total += x;
            }
        }
        let total = total(&totals);
        for (k, y) in self.y.iter_mut().enumerate() {
            let sum = mul_add::<FMA>(-f32::from(self.zeros[k]), total, self.sums[k]);
            *y = mul_add::<FMA>(F16(self.scales[k]).widen(), sum, *y);
        }
    }
}
