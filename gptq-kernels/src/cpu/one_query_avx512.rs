//! Scores of one query with AVX-512: four keys at a time, whose sixteen sums each become one number
//! together.

use core::arch::x86_64::*;

/// Numbers of a vector.
pub(crate) const LANES: usize = 16;

/// Keys that are scored together.
const KEYS: usize = 4;

/// `scores[i] = scale · q · keys[i]`; a key begins every `width` numbers. Returns how many of them
/// are done, the largest multiple of four.
///
/// # Safety
/// The CPU must have AVX-512.
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn scores(
    q: &[f32],
    keys: &[f32],
    width: usize,
    scale: f32,
    scores: &mut [f32],
) -> usize {
    let scale = _mm_set1_ps(scale);
    let whole = scores.as_chunks_mut::<KEYS>().0;
    for (i, scores) in whole.iter_mut().enumerate() {
        let first = keys[i * KEYS * width..][..(KEYS - 1) * width + q.len()].as_ptr();
        let mut sums = [_mm512_setzero_ps(); KEYS];
        for (c, q) in q.as_chunks::<LANES>().0.iter().enumerate() {
            // SAFETY: sixteen numbers of `q`, and of each of the four keys that begin at `first`.
            unsafe {
                let q = _mm512_loadu_ps(q.as_ptr());
                for (k, sum) in sums.iter_mut().enumerate() {
                    let key = _mm512_loadu_ps(first.add(k * width + c * LANES));
                    *sum = _mm512_fmadd_ps(q, key, *sum);
                }
            }
        }
        let total = _mm_mul_ps(totals(sums), scale);
        // SAFETY: four numbers, at any alignment.
        unsafe { _mm_storeu_ps(scores.as_mut_ptr(), total) };
    }
    whole.len() * KEYS
}

/// Asks for keys or values that will be read soon: they lie apart, where prefetchers do not follow.
#[inline]
pub(crate) fn fetch(rows: &[f32], width: usize, len: usize) {
    for row in rows.chunks(width) {
        for line in row[..len.min(row.len())].chunks(LANES) {
            // SAFETY: asking for memory changes nothing, wherever it is.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
        }
    }
}

/// The sum of each.
#[inline]
#[target_feature(enable = "avx512f")]
fn totals([a, b, c, d]: [__m512; KEYS]) -> __m128 {
    let pairs = |a, b| _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let (ab, cd) = (_mm512_castps_pd(pairs(a, b)), _mm512_castps_pd(pairs(c, d)));
    let low = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
    let high = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
    // Every quarter holds a part of each of the four.
    let parts = _mm512_add_ps(low, high);
    let halves = _mm512_add_ps(parts, _mm512_shuffle_f32x4::<0b11_10_11_10>(parts, parts));
    let whole = _mm512_add_ps(halves, _mm512_shuffle_f32x4::<0b01_01_01_01>(halves, halves));
    _mm512_castps512_ps128(whole)
}
