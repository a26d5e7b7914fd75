//! Sums of bytes with AVX2, where the only product of unsigned and signed bytes adds two of them
//! in 16 bits. Codes of 4 bits leave room for the 8 quads of a lane (8 · 2 · 15 · 127 < 2¹⁵), and a
//! code of 8 bits is two of 4.

use core::arch::x86_64::*;

use super::{
    int8::Product,
    lines::Line,
    quads::{LANE, Part, QUADS, four, parts},
    tiles::{STRIP, Strip, WORD},
};

/// # Safety
/// The CPU must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn product<const BITS: usize, const S: usize, const T: usize>(
    product: Product<'_, S, T>,
) {
    product.run::<true>(|lines, x, sums| {
        for (lines, sums) in lines.into_iter().zip(sums) {
            dot::<BITS, T>(lines, x, sums);
        }
    });
}

/// See `int8::Product::run`; one strip.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn dot<const BITS: usize, const T: usize>(
    lines: &[Line],
    x: [&[i8]; T],
    sums: &mut [Strip<i32>; T],
) {
    let (ones, nibble) = (_mm256_set1_epi16(1), _mm256_set1_epi8(15));
    for eight in 0..STRIP / 8 {
        let mut acc = [_mm256_setzero_si256(); T];
        for (lane, words) in lines.chunks_exact(BITS * WORD).enumerate() {
            let x = x.map(|x| x[lane * LANE..].first_chunk::<LANE>().expect("a lane"));
            let mut low = [_mm256_setzero_si256(); T];
            let mut high = [_mm256_setzero_si256(); T];
            for v in 0..QUADS {
                let codes = quad::<BITS>(words, v, eight);
                for t in 0..T {
                    let x = _mm256_set1_epi32(four(x[t], v));
                    let part = _mm256_and_si256(codes, nibble);
                    low[t] = _mm256_add_epi16(low[t], _mm256_maddubs_epi16(part, x));
                    if BITS == 8 {
                        let part = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble);
                        high[t] = _mm256_add_epi16(high[t], _mm256_maddubs_epi16(part, x));
                    }
                }
            }
            for t in 0..T {
                acc[t] = _mm256_add_epi32(acc[t], _mm256_madd_epi16(low[t], ones));
                if BITS == 8 {
                    let high = _mm256_slli_epi32::<4>(_mm256_madd_epi16(high[t], ones));
                    acc[t] = _mm256_add_epi32(acc[t], high);
                }
            }
        }
        for (acc, sums) in acc.iter().zip(&mut *sums) {
            let sums = &mut sums.as_chunks_mut::<8>().0[eight];
            // SAFETY: 8 numbers, at any alignment.
            unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), *acc) };
        }
    }
}

/// Quad `v` of 8 outputs.
#[inline]
#[target_feature(enable = "avx2")]
fn quad<const BITS: usize>(words: &[Line], v: usize, eight: usize) -> __m256i {
    let (one, two) = parts::<BITS>(v);
    let low = take(words, one, eight);
    match two {
        None => low,
        Some(two) => _mm256_or_si256(low, take(words, two, eight)),
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn take(words: &[Line], part: Part, eight: usize) -> __m256i {
    let half = &words[part.word * WORD + eight / 2].0.as_chunks::<8>().0[eight % 2];
    // SAFETY: 32 bytes, at any alignment.
    let word = unsafe { _mm256_loadu_si256(half.as_ptr().cast()) };
    // Constants after unrolling.
    let shifted = _mm256_srl_epi32(word, _mm_cvtsi32_si128(part.shift as i32));
    let masked = _mm256_and_si256(shifted, _mm256_set1_epi32(part.mask as i32));
    _mm256_sll_epi32(masked, _mm_cvtsi32_si128(part.up as i32))
}
