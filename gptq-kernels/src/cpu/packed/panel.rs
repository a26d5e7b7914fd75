//! Packed weights times many tokens of bytes, with AVX-512 VNNI: a block of codes is unpacked once,
//! into the nearest cache, and stays there while all tokens pass.

use core::{
    arch::x86_64::*,
    sync::atomic::{Ordering, compiler_fence},
};

use super::{
    super::isa::Isa,
    bytes::Bytes,
    lines::Line,
    quads::QUADS,
    slots::BLOCK,
    tiles::{Strip, Tiles, WORD},
    vnni::{Scales, load, quad, store},
};

/// Tokens from which unpacking apart is faster.
pub(crate) const WORTHWHILE: usize = 32;

/// Tokens whose sums fill half of the registers: enough to hide how long an instruction takes.
const TOKENS: usize = 4;

/// A block of a strip, a byte for each code: quad by quad, [`WORD`] lines of 16 outputs.
type Panel = [[Line; WORD]; BLOCK * QUADS];

/// `y = W · x` for one strip and the tokens from `first` on; `y` has a multiple of four rows.
pub(crate) fn strip(
    isa: Isa,
    tiles: &Tiles,
    strip: usize,
    x: &Bytes,
    first: usize,
    y: &mut [Strip<f32>],
) {
    assert!(isa.has_vnni() && y.len().is_multiple_of(TOKENS), "panel: a CPU with VNNI, by fours");
    // SAFETY: the level says that the CPU has the instructions.
    unsafe { by_bits!(tiles.bits, BITS => run::<BITS>(tiles, strip, x, first, y)) }
}

/// # Safety
/// The CPU must have AVX-512 with VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
unsafe fn run<const BITS: usize>(
    tiles: &Tiles,
    strip: usize,
    x: &Bytes,
    first: usize,
    y: &mut [Strip<f32>],
) {
    y.fill([0.0; _]);
    let mut panel: Panel = [[Line([0; 16]); WORD]; BLOCK * QUADS];
    for (block, (g, lanes)) in tiles.slots.blocks().enumerate() {
        let group = tiles.group(strip, g);
        let words = tiles.lanes(&group, g, lanes.clone());
        let panel = &mut panel[..lanes.len() * QUADS];
        unpack::<BITS>(words, panel);
        let (factors, totals) = (&x.factors(block)[first..], &x.totals(block)[first..]);
        let scales = Scales::of(&group);
        for (t, y) in y.as_chunks_mut::<TOKENS>().0.iter_mut().enumerate() {
            let tokens = t * TOKENS..(t + 1) * TOKENS;
            // Loops, where closures would be calls: they do not become part of what has other
            // instructions than the function that calls them.
            let mut bytes = [&[][..]; TOKENS];
            for (t, bytes) in bytes.iter_mut().enumerate() {
                let from = x.from(first + tokens.start + t, lanes.start);
                *bytes = &from.as_chunks().0[..panel.len()];
            }
            let sums = multiply(panel, bytes);
            let (factors, totals) = (&factors[tokens.clone()], &totals[tokens]);
            for (t, (sums, y)) in sums.into_iter().zip(y).enumerate() {
                store(scales.add(sums, [factors[t], totals[t]], load(y)), y);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn unpack<const BITS: usize>(words: &[Line], panel: &mut [[Line; WORD]]) {
    let lanes = words.chunks_exact(BITS * WORD).zip(panel.as_chunks_mut::<QUADS>().0);
    for (words, panel) in lanes {
        for (v, lines) in panel.iter_mut().enumerate() {
            for (t, line) in lines.iter_mut().enumerate() {
                // SAFETY: a line is 64 bytes and aligned to that.
                unsafe { _mm512_store_si512((&raw mut *line).cast(), quad::<BITS>(words, v, t)) };
            }
        }
    }
}

/// Sums of code · byte over a block, by token.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn multiply(panel: &[[Line; WORD]], x: [&[[i8; 4]]; TOKENS]) -> [[__m512i; WORD]; TOKENS] {
    let mut sums = [[_mm512_setzero_si512(); WORD]; TOKENS];
    for (v, lines) in panel.iter().enumerate() {
        let mut codes = [_mm512_setzero_si512(); WORD];
        for (codes, line) in codes.iter_mut().zip(lines) {
            // SAFETY: a line is 64 bytes and aligned to that.
            *codes = unsafe { _mm512_load_si512((&raw const *line).cast()) };
        }
        // Costs nothing, and keeps the compiler from reading lines in another order.
        compiler_fence(Ordering::SeqCst);
        for (sums, x) in sums.iter_mut().zip(x) {
            let four = i32::from_le_bytes(x[v].map(|x| x as u8));
            let four = _mm512_set1_epi32(four);
            for (sum, codes) in sums.iter_mut().zip(codes) {
                *sum = _mm512_dpbusd_epi32(*sum, codes, four);
            }
        }
    }
    sums
}
