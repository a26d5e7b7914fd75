//! Packed weights times activations that are bytes: products and sums are exact integers within a
//! block, the same on every instruction set; scales come in as f32 at its end.

use super::{
    super::isa::{Isa, Reading, mul_add},
    bytes::Bytes,
    half::{Element, F16},
    lines::Line,
    quads::{LANE, QUADS, quad},
    tiles::{Group, Strip, Tiles, WORD},
};
#[cfg(target_arch = "x86_64")]
use super::{avx2, vnni};

/// Tokens that share one unpacking of the codes.
const TOKENS: usize = 4;

/// Strips that one token meets side by side, where memory is read faster so.
pub(crate) const STRIPS: usize = 4;

/// Strips of one task for one token.
pub(crate) fn strips(isa: Isa) -> usize {
    if isa.reading() == Reading::Streams { STRIPS } else { 1 }
}

/// `y = W · x` for some neighbouring strips and one token: as many as `y` has.
pub(crate) fn one_token(
    isa: Isa,
    tiles: &Tiles,
    strip: usize,
    x: &Bytes,
    token: usize,
    y: &mut [Strip<f32>],
) {
    let mut strip = strip;
    let streams = isa.reading() == Reading::Streams;
    let (together, rest) = if streams { y.as_chunks_mut() } else { (&mut [][..], y) };
    for y in together {
        some::<STRIPS, 1>(isa, tiles, strip, x, token, y.each_mut().map(std::array::from_mut));
        strip += STRIPS;
    }
    for y in rest {
        one(isa, tiles, strip, x, token, y);
        strip += 1;
    }
}

/// One strip, one token.
fn one(isa: Isa, tiles: &Tiles, strip: usize, x: &Bytes, token: usize, y: &mut Strip<f32>) {
    #[cfg(target_arch = "x86_64")]
    if isa.has_vnni() {
        let ahead = isa.reading() == Reading::Ahead;
        let run = by_bits!(tiles.bits, BITS => match ahead {
            true => vnni::one::<BITS, true>,
            false => vnni::one::<BITS, false>,
        });
        // SAFETY: the level says that the CPU has the instructions.
        return unsafe { run(tiles, strip, x, token, y) };
    }
    some::<1, 1>(isa, tiles, strip, x, token, [std::array::from_mut(y)]);
}

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
        some::<1, TOKENS>(isa, tiles, strip, x, token, [y]);
        token += TOKENS;
    }
    for y in rest {
        one(isa, tiles, strip, x, token, y);
        token += 1;
    }
}

/// `S` strips, `T` tokens.
fn some<const S: usize, const T: usize>(
    isa: Isa,
    tiles: &Tiles,
    strip: usize,
    x: &Bytes,
    token: usize,
    y: [&mut [Strip<f32>; T]; S],
) {
    let run = by_bits!(tiles.bits, BITS => best::<BITS, S, T>(isa));
    run(Product { tiles, strip, x, token, y });
}

/// Of this level of instructions.
fn best<const BITS: usize, const S: usize, const T: usize>(isa: Isa) -> fn(Product<'_, S, T>) {
    #[cfg(target_arch = "x86_64")]
    {
        if isa.has_vnni() {
            // SAFETY: the level says that the CPU has the instructions.
            return |product| unsafe { vnni::product::<BITS, S, T>(product) };
        }
        if isa != Isa::SCALAR {
            // SAFETY: as above.
            return |product| unsafe { avx2::product::<BITS, S, T>(product) };
        }
    }
    let _ = isa;
    |product| product.run::<false>(plain::<BITS, S, T>)
}

/// Some neighbouring strips times some neighbouring tokens.
pub(crate) struct Product<'a, const S: usize, const T: usize> {
    tiles: &'a Tiles,
    /// The first.
    strip: usize,
    x: &'a Bytes,
    /// The first.
    token: usize,
    y: [&'a mut [Strip<f32>; T]; S],
}

impl<const S: usize, const T: usize> Product<'_, S, T> {
    /// `dot` puts sums of code · byte over the lanes of a block where they belong: by strip, by
    /// token, by output.
    #[inline(always)]
    pub(crate) fn run<const FMA: bool>(
        self,
        dot: impl Fn([&[Line]; S], [&[i8]; T], &mut [[Strip<i32>; T]; S]),
    ) {
        let Self { tiles, strip, x, token: first, mut y } = self;
        y.iter_mut().for_each(|y| y.fill([0.0; _]));
        let mut sums = [[[0i32; _]; T]; S];
        let groups = |g: usize| std::array::from_fn(|s| tiles.group(strip + s, g));
        let mut group: [Group<'_>; S] = groups(0);
        let mut last = 0;
        for (block, (g, lanes)) in tiles.slots.blocks().enumerate() {
            if g != last {
                (group, last) = (groups(g), g);
            }
            let of = |token: usize| x.from(first + token, lanes.start);
            let lines = group.each_ref().map(|group| tiles.lanes(group, g, lanes.clone()));
            dot(lines, std::array::from_fn(of), &mut sums);
            let (factors, totals) = (&x.factors(block)[first..], &x.totals(block)[first..]);
            for ((group, sums), y) in group.iter().zip(&sums).zip(&mut y) {
                for (t, (sums, y)) in sums.iter().zip(&mut **y).enumerate() {
                    scale::<FMA>(group, sums, [factors[t], totals[t]], y);
                }
            }
        }
    }
}

/// `y += scale · factor · (sum − zero · total)`, of which the bracket is exact: at most
/// 128 · 255 · 127 < 2²⁴.
#[inline(always)]
fn scale<const FMA: bool>(
    group: &Group<'_>,
    sums: &Strip<i32>,
    [factor, total]: [f32; 2],
    y: &mut Strip<f32>,
) {
    for (k, y) in y.iter_mut().enumerate() {
        let scale = F16(group.scales[k]).widen() * factor;
        let sum = mul_add::<FMA>(-f32::from(group.zeros[k]), total, sums[k] as f32);
        *y = mul_add::<FMA>(scale, sum, *y);
    }
}

/// See [`Product::run`].
fn plain<const BITS: usize, const S: usize, const T: usize>(
    lines: [&[Line]; S],
    x: [&[i8]; T],
    sums: &mut [[Strip<i32>; T]; S],
) {
    for (lines, sums) in lines.iter().zip(sums) {
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
}
