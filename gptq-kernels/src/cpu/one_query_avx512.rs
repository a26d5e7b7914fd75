//! Attention of one query with AVX-512: heads that share keys and values meet them four at a time, so
//! that each vector of them is loaded once for four products.

use core::arch::x86_64::*;

use super::one_query::Part;

/// Numbers of a vector.
pub(crate) const LANES: usize = 16;

/// Heads, keys and vectors that are taken together: their sums fill half of the registers.
const FOUR: usize = 4;

/// `scores[h, i] = scale · q[h] · keys[i]` of some keys. `q` is heads × head_dim, a multiple of [`LANES`]; a head's scores begin every `count` numbers.
///
/// # Safety
/// The CPU must have AVX-512.
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn scores(
    q: &[f32],
    Part { rows: keys, width, next }: Part<'_>,
    head_dim: usize,
    scale: f32,
    scores: &mut [f32],
    count: usize,
) {
    let scale = _mm512_set1_ps(scale);
    let keys_here = keys.len().div_ceil(width);
    let fours = q.chunks(FOUR * head_dim).zip(scores.chunks_mut(FOUR * count));
    let mut next = next.chunks(next.len().div_ceil(keys_here.div_ceil(FOUR)).max(1));
    for (q, scores) in fours {
        let heads = q.len() / head_dim;
        for first in (0..keys_here).step_by(FOUR) {
            fetch(next.next().unwrap_or_default());
            let some = FOUR.min(keys_here - first);
            // Beyond the last head and the last key, the last again.
            let (mut four_q, mut four_keys) = ([&[][..]; FOUR], [&[][..]; FOUR]);
            for (n, (to_q, to_key)) in four_q.iter_mut().zip(&mut four_keys).enumerate() {
                *to_q = &q[n.min(heads - 1) * head_dim..][..head_dim];
                *to_key = &keys[(first + n.min(some - 1)) * width..][..head_dim];
            }
            let sums = match heads {
                1 => products::<1>(four_q, four_keys),
                _ => products::<FOUR>(four_q, four_keys),
            };
            let sums = _mm512_mul_ps(totals(sums), scale);
            let mut numbers = [0.0; FOUR * FOUR];
            // SAFETY: sixteen numbers, at any alignment.
            unsafe { _mm512_storeu_ps(numbers.as_mut_ptr(), sums) };
            for (scores, sums) in scores.chunks_mut(count).zip(numbers.as_chunks::<FOUR>().0) {
                match scores[first..].first_chunk_mut::<FOUR>() {
                    Some(scores) if some == FOUR => *scores = *sums,
                    _ => scores[first..].iter_mut().zip(sums).take(some).for_each(|(s, x)| *s = *x),
                }
            }
        }
    }
}

/// `out[h] += Σ weights[h, i] · values[i]` of some values. A head's weights begin every `count`
/// numbers; `out` is heads × value_dim, a multiple of [`LANES`].
///
/// # Safety
/// The CPU must have AVX-512.
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn sum(
    weights: &[f32],
    count: usize,
    values: Part<'_>,
    out: &mut [f32],
    value_dim: usize,
) {
    let fours = weights.chunks(FOUR * count).zip(out.chunks_mut(FOUR * value_dim));
    // Asked for once, by the first heads.
    let mut next = values.next;
    for (weights, out) in fours {
        let (heads, mut at) = (out.len() / value_dim, 0);
        while at < value_dim {
            let whole = at + FOUR * LANES <= value_dim;
            let part = |next| Part { rows: &values.rows[at..], next, ..values };
            if heads == FOUR && whole {
                add::<FOUR, FOUR>(weights, count, part(std::mem::take(&mut next)), out, at);
            } else {
                for (weights, out) in weights.chunks(count).zip(out.chunks_mut(value_dim)) {
                    let values = part(std::mem::take(&mut next));
                    match whole {
                        true => add::<1, FOUR>(weights, count, values, out, at),
                        false => add::<1, 1>(weights, count, values, out, at),
                    }
                }
            }
            at += if whole { FOUR * LANES } else { LANES };
        }
    }
}

/// [`sum`] for `H` heads and the `V` vectors of their values that begin `at` a number.
#[inline]
#[target_feature(enable = "avx512f")]
fn add<const H: usize, const V: usize>(
    weights: &[f32],
    count: usize,
    Part { rows: values, width, next }: Part<'_>,
    out: &mut [f32],
    at: usize,
) {
    let value_dim = out.len() / H;
    let mut sums = [[_mm512_setzero_ps(); V]; H];
    for (h, sums) in sums.iter_mut().enumerate() {
        for (v, sum) in sums.iter_mut().enumerate() {
            *sum = load(out, h * value_dim + at + v * LANES);
        }
    }
    let rows = values.len().div_ceil(width);
    let mut next = next.chunks(next.len().div_ceil(rows).max(1));
    for i in 0..rows {
        fetch(next.next().unwrap_or_default());
        let mut value = [_mm512_setzero_ps(); V];
        for (v, value) in value.iter_mut().enumerate() {
            *value = load(values, i * width + v * LANES);
        }
        for (h, sums) in sums.iter_mut().enumerate() {
            let weight = _mm512_set1_ps(weights[h * count + i]);
            for (sum, value) in sums.iter_mut().zip(value) {
                *sum = _mm512_fmadd_ps(weight, value, *sum);
            }
        }
    }
    for (h, sums) in sums.iter().enumerate() {
        let out = out[h * value_dim + at..][..V * LANES].as_chunks_mut::<LANES>().0;
        for (sum, out) in sums.iter().zip(out) {
            // SAFETY: sixteen numbers, at any alignment.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), *sum) };
        }
    }
}

/// Sixteen partial sums of each of the first `H` heads with each key.
#[inline]
#[target_feature(enable = "avx512f")]
fn products<const H: usize>(q: [&[f32]; FOUR], keys: [&[f32]; FOUR]) -> [[__m512; FOUR]; FOUR] {
    let mut sums = [[_mm512_setzero_ps(); FOUR]; FOUR];
    for at in (0..q[0].len()).step_by(LANES) {
        let mut vectors = [_mm512_setzero_ps(); FOUR];
        for (vector, key) in vectors.iter_mut().zip(keys) {
            *vector = load(key, at);
        }
        for (sums, q) in sums.iter_mut().zip(q).take(H) {
            let q = load(q, at);
            for (sum, key) in sums.iter_mut().zip(vectors) {
                *sum = _mm512_fmadd_ps(q, key, *sum);
            }
        }
    }
    sums
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(numbers: &[f32], at: usize) -> __m512 {
    // SAFETY: sixteen numbers, at any alignment.
    unsafe { _mm512_loadu_ps(numbers[at..at + LANES].as_ptr()) }
}

/// Asks for what will be read soon.
#[inline]
pub(crate) fn fetch(rows: &[f32]) {
    for line in rows.chunks(LANES) {
        // SAFETY: asking for memory changes nothing, wherever it is.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

/// The sum of each, head by head.
#[inline]
#[target_feature(enable = "avx512f")]
fn totals(sums: [[__m512; FOUR]; FOUR]) -> __m512 {
    let mut parts = [_mm512_setzero_ps(); FOUR];
    for (part, [a, b, c, d]) in parts.iter_mut().zip(sums) {
        let (ab, cd) = (_mm512_castps_pd(pairs(a, b)), _mm512_castps_pd(pairs(c, d)));
        let low = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
        let high = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
        // Every quarter holds a part of each of the four keys.
        *part = _mm512_add_ps(low, high);
    }
    let [a, b, c, d] = parts;
    quarters(quarters(a, b), quarters(c, d))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn pairs(a: __m512, b: __m512) -> __m512 {
    _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b))
}

/// Neighbouring quarters of both, added.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarters(a: __m512, b: __m512) -> __m512 {
    let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
    _mm512_add_ps(even, _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b))
}
