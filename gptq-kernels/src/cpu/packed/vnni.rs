//! Sums of bytes with AVX-512 VNNI: four products of each of 16 outputs per instruction.

use core::arch::x86_64::*;

use super::{
    int8::Product,
    lines::Line,
    quads::{LANE, Part, QUADS, four, parts},
    tiles::{Strip, WORD},
};

/// How far ahead memory is asked for, in lines.
const AHEAD: usize = 16;

/// # Safety
/// The CPU must have AVX-512 with VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma")]
pub(crate) unsafe fn product<const BITS: usize, const S: usize, const T: usize>(
    product: Product<'_, S, T>,
) {
    product.run::<true>(|lines, x, sums| dot::<BITS, S, T>(lines, x, sums));
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
                    let ahead = (&raw const *word).wrapping_add(AHEAD);
                    _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                }
            }
            for v in 0..QUADS {
                let codes: [__m512i; WORD] = std::array::from_fn(|t| quad::<BITS>(words, v, t));
                for (acc, x) in acc.iter_mut().zip(x) {
                    let x = _mm512_set1_epi32(four(x, v));
                    for (acc, codes) in acc.iter_mut().zip(codes) {
                        *acc = _mm512_dpbusd_epi32(*acc, codes, x);
                    }
                }
            }
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
