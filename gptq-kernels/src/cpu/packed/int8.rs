//! Packed weights times activations that are bytes: products and sums are exact integers within a
//! block, the same on every instruction set; scales come in as f32 at its end.

use gptq_core::Bits;

use super::{
    super::isa::{Isa, Kernel, mul_add},
    bytes::Bytes,
    half::{Element, F16},
    lines::Line,
    quads::{LANE, QUADS, quad},
    tiles::{Strip, Tiles, WORD},
};
#[cfg(target_arch = "x86_64")]
use super::{avx2, vnni};

/// Tokens that share one unpacking of the codes.
const TOKENS: usize = 4;

/// `y = W · x` for one strip and the tokens from `first` on, as many as `y` has rows.
pub(crate) fn strip(
    isa: Isa,
    tiles: &Tiles,
    strip: usize,
    x: &Bytes,
    first: usize,
    y: &mut [Strip<f32>],
) {
    let (whole, rest) = y.as_chunks_mut::<TOKENS>();
    let mut token = first;
    for y in whole {
        some::<TOKENS>(isa, tiles, strip, x, token, y);
        token += TOKENS;
    }
    for y in rest {
        some::<1>(isa, tiles, strip, x, token, std::array::from_mut(y));
        token += 1;
    }
}

fn some<const T: usize>(
    isa: Isa,
    tiles: &Tiles,
    strip: usize,
    x: &Bytes,
    first: usize,
    y: &mut [Strip<f32>; T],
) {
    let dot = match tiles.bits {
        Bits::B2 => dot::<2, T>(isa),
        Bits::B3 => dot::<3, T>(isa),
        Bits::B4 => dot::<4, T>(isa),
        Bits::B8 => dot::<8, T>(isa),
    };
    y.fill([0.0; _]);
    let mut sums = [[0i32; _]; T];
    let mut group = tiles.group(strip, 0);
    let mut last = 0;
    for (block, (g, lanes)) in tiles.slots.blocks().enumerate() {
        if g != last {
            (group, last) = (tiles.group(strip, g), g);
        }
        let of = |token: usize| x.from(first + token, lanes.start);
        dot(tiles.lanes(&group, g, lanes.clone()), std::array::from_fn(of), &mut sums);
        let (factors, totals) = (x.factors(block), x.totals(block));
        isa.run(Scale::<T> {
            scales: group.scales,
            zeros: group.zeros,
            sums: &sums,
            factors: std::array::from_fn(|t| factors[first + t]),
            totals: std::array::from_fn(|t| totals[first + t]),
            y,
        });
    }
}

/// Sums of code · byte over the lanes of a block: by token, by output.
type Dot<const T: usize> = fn(&[Line], [&[i8]; T], &mut [Strip<i32>; T]);

fn dot<const BITS: usize, const T: usize>(isa: Isa) -> Dot<T> {
    #[cfg(target_arch = "x86_64")]
    {
        if isa.has_vnni() {
            // SAFETY: the level says that the CPU has the instructions.
            return |lines, x, sums| unsafe { vnni::dot::<BITS, T>(lines, x, sums) };
        }
        if isa != Isa::SCALAR {
            // SAFETY: as above.
            return |lines, x, sums| unsafe { avx2::dot::<BITS, T>(lines, x, sums) };
        }
    }
    let _ = isa;
    plain::<BITS, T>
}

fn plain<const BITS: usize, const T: usize>(
    lines: &[Line],
    x: [&[i8]; T],
    sums: &mut [Strip<i32>; T],
) {
    for (x, sums) in x.iter().zip(sums) {
        sums.fill(0);
        for (words, x) in lines.chunks_exact(BITS * WORD).zip(x.chunks_exact(LANE)) {
            for v in 0..QUADS {
                for (k, sum) in sums.iter_mut().enumerate() {
                    let codes = quad::<BITS>(|w| words[w * WORD + k / 16].0[k % 16], v);
                    for (code, &x) in codes.to_le_bytes().into_iter().zip(&x[4 * v..]) {
                        *sum += i32::from(code) * i32::from(x);
                    }
                }
            }
        }
    }
}

/// `y += scale · factor · (sum − zero · total)`, of which the bracket is exact: at most
/// 128 · 255 · 127 < 2²⁴.
struct Scale<'a, const T: usize> {
    scales: &'a Strip<u16>,
    zeros: &'a Strip<u8>,
    sums: &'a [Strip<i32>; T],
    factors: [f32; T],
    totals: [f32; T],
    y: &'a mut [Strip<f32>; T],
}

impl<const T: usize> Kernel for Scale<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for t in 0..T {
            let (sums, y) = (&self.sums[t], &mut self.y[t]);
            let (factor, total) = (self.factors[t], self.totals[t]);
            for (k, y) in y.iter_mut().enumerate() {
                let scale = F16(self.scales[k]).widen() * factor;
                let sum = mul_add::<FMA>(-f32::from(self.zeros[k]), total, sums[k] as f32);
                *y = mul_add::<FMA>(scale, sum, *y);
            }
        }
    }
}
