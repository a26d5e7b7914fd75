//! Sums of bytes with AVX-512 VNNI: four products of each of 16 outputs per instruction.

use core::{
    arch::x86_64::*,
    sync::atomic::{Ordering, compiler_fence},
};

use super::{
    bytes::Bytes,
    int8::Product,
    lines::Line,
    quads::{LANE, Part, QUADS, four, parts},
    tiles::{Group, Strip, Tiles, WORD},
};

/// How far ahead memory is asked for, in lines, where that pays: of one strip.
const AHEAD: usize = 128;

/// The same, of each of several strips.
const AHEAD_OF_EACH: usize = 16;

/// # Safety
/// The CPU must have AVX-512 with VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma")]
pub(crate) unsafe fn product<const BITS: usize, const S: usize, const T: usize>(
    product: Product<'_, S, T>,
) {
    product.run::<true>(|lines, x, sums| dot::<BITS, S, T>(lines, x, sums));
}

/// One strip times one token: as [`product`], with everything in registers. Memory is asked for
/// [`AHEAD`] if `ASKING`.
///
/// # Safety
/// The CPU must have AVX-512 with VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma")]
pub(crate) unsafe fn one<const BITS: usize, const ASKING: bool>(
    tiles: &Tiles,
    strip: usize,
    x: &Bytes,
    token: usize,
    y: &mut Strip<f32>,
) {
    let mut out = [_mm512_setzero_ps(); WORD];
    for (block, (g, lanes)) in tiles.slots.blocks().enumerate() {
        let group = tiles.group(strip, g);
        let lines = tiles.lanes(&group, g, lanes.clone());
        let bytes = x.from(token, lanes.start).as_chunks::<LANE>().0;
        let mut sums = [_mm512_setzero_si512(); WORD];
        for (words, x) in lines.chunks_exact(BITS * WORD).zip(bytes) {
            if ASKING {
                for word in words {
                    let ahead = (&raw const *word).wrapping_add(AHEAD);
                    _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                }
            }
            for v in 0..QUADS {
                let codes: [__m512i; WORD] = std::array::from_fn(|t| quad::<BITS>(words, v, t));
                // Costs nothing, and keeps the compiler from reading lines in another order.
                compiler_fence(Ordering::SeqCst);
                let x = _mm512_set1_epi32(four(x, v));
                for (sum, codes) in sums.iter_mut().zip(codes) {
                    *sum = _mm512_dpbusd_epi32(*sum, codes, x);
                }
            }
        }
        let numbers = [x.factors(block)[token], x.totals(block)[token]];
        out = Scales::of(&group).add(sums, numbers, out);
    }
    store(out, y);
}

/// See `int8::Product::run`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma")]
fn dot<const BITS: usize, const S: usize, const T: usize>(
    lines: [&[Line]; S],
    x: [&[i8]; T],
    sums: &mut [[Strip<i32>; T]; S],
) {
    let mut acc = [[[_mm512_setzero_si512(); WORD]; T]; S];
    for lane in 0..lines[0].len() / (BITS * WORD) {
        let x = x.map(|x| x[lane * LANE..].first_chunk::<LANE>().expect("a lane"));
        for (lines, acc) in lines.iter().zip(&mut acc) {
            let words = &lines[lane * BITS * WORD..][..BITS * WORD];
            if T == 1 {
                for word in words {
                    let ahead = (&raw const *word).wrapping_add(AHEAD_OF_EACH);
                    _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                }
            }
            // A copy stays in registers; through the reference, each sum would go to memory.
            let mut sums = *acc;
            for v in 0..QUADS {
                let codes: [__m512i; WORD] = std::array::from_fn(|t| quad::<BITS>(words, v, t));
                // Costs nothing, and keeps the compiler from reading lines in another order.
                compiler_fence(Ordering::SeqCst);
                for (sums, x) in sums.iter_mut().zip(x) {
                    let x = _mm512_set1_epi32(four(x, v));
                    for (sum, codes) in sums.iter_mut().zip(codes) {
                        *sum = _mm512_dpbusd_epi32(*sum, codes, x);
                    }
                }
            }
            *acc = sums;
        }
    }
    for (acc, sums) in acc.iter().flatten().zip(sums.iter_mut().flatten()) {
        for (acc, sums) in acc.iter().zip(sums.as_chunks_mut::<16>().0) {
            // SAFETY: 16 numbers, at any alignment.
            unsafe { _mm512_storeu_si512(sums.as_mut_ptr().cast(), *acc) };
        }
    }
}

/// Quad `v` of 16 outputs.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn quad<const BITS: usize>(words: &[Line], v: usize, t: usize) -> __m512i {
    let (one, two) = parts::<BITS>(v);
    let low = take(words, one, t);
    match two {
        None => low,
        Some(two) => _mm512_or_si512(low, take(words, two, t)),
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn take(words: &[Line], part: Part, t: usize) -> __m512i {
    let line = &words[part.word * WORD + t];
    // SAFETY: a line is 64 bytes and aligned to that.
    let word = unsafe { _mm512_load_si512((&raw const *line).cast()) };
    if part.mask == u32::MAX {
        return word;
    }
    // Constants after unrolling, so that each is one instruction.
    let shifted = _mm512_srl_epi32(word, _mm_cvtsi32_si128(part.shift as i32));
    let masked = _mm512_and_si512(shifted, _mm512_set1_epi32(part.mask as i32));
    _mm512_sll_epi32(masked, _mm_cvtsi32_si128(part.up as i32))
}

/// What a group's sums are multiplied by, in registers.
pub(crate) struct Scales {
    scales: [__m512; WORD],
    zeros: [__m512; WORD],
}

impl Scales {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn of(group: &Group<'_>) -> Self {
        let scales = group.scales.as_chunks::<16>().0;
        let zeros = group.zeros.as_chunks::<16>().0;
        // SAFETY: 16 numbers of two bytes, at any alignment.
        let scale = |t: usize| unsafe { _mm256_loadu_si256(scales[t].as_ptr().cast()) };
        // SAFETY: 16 bytes, at any alignment.
        let zero = |t: usize| unsafe { _mm_loadu_si128(zeros[t].as_ptr().cast()) };
        Self {
            scales: std::array::from_fn(|t| _mm512_cvtph_ps(scale(t))),
            zeros: std::array::from_fn(|t| _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(zero(t)))),
        }
    }

    /// `y + scale · factor · (sum − zero · total)`, as `int8::scale` has it.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn add(
        &self,
        sums: [__m512i; WORD],
        [factor, total]: [f32; 2],
        mut y: [__m512; WORD],
    ) -> [__m512; WORD] {
        let (factor, total) = (_mm512_set1_ps(factor), _mm512_set1_ps(total));
        for (t, y) in y.iter_mut().enumerate() {
            let sum = _mm512_cvtepi32_ps(sums[t]);
            let sum = _mm512_fnmadd_ps(self.zeros[t], total, sum);
            *y = _mm512_fmadd_ps(_mm512_mul_ps(self.scales[t], factor), sum, *y);
        }
        y
    }
}

/// The numbers of a strip.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load(y: &Strip<f32>) -> [__m512; WORD] {
    let parts = y.as_chunks::<16>().0;
    // SAFETY: sixteen numbers, at any alignment.
    let part = |t: usize| unsafe { _mm512_loadu_ps(parts[t].as_ptr()) };
    std::array::from_fn(part)
}

/// The opposite of [`load`].
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn store(sums: [__m512; WORD], y: &mut Strip<f32>) {
    for (sums, y) in sums.into_iter().zip(y.as_chunks_mut::<16>().0) {
        // SAFETY: sixteen numbers, at any alignment.
        unsafe { _mm512_storeu_ps(y.as_mut_ptr(), sums) };
    }
}
