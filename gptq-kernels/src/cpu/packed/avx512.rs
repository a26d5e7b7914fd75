//! Sums of codes times f32 with AVX-512. Up to 4 bits, a table of 16 numbers in a register turns
//! codes into f32 and looks at no other bits, so that each 16 products are a shift, a look-up and
//! an addition.

use core::arch::x86_64::*;

use super::{
    lines::Line,
    quads::{LANE, QUADS},
    tiles::{Strip, WORD},
    vnni::quad,
};

/// How far ahead memory is asked for, in lines.
const AHEAD: usize = 32;

/// See `exact::sum`.
///
/// # Safety
/// The CPU must have AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) unsafe fn sum<const BITS: usize>(lanes: &[Line], x: &[f32], sums: &mut Strip<f32>) {
    let table =
        _mm512_setr_ps(0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.);
    let byte = _mm512_set1_epi32(255);
    // Two sums per output hide the latency of the adder.
    let mut acc = [[_mm512_setzero_ps(); WORD]; 2];
    for (words, x) in lanes.chunks_exact(BITS * WORD).zip(x.as_chunks::<LANE>().0) {
        for word in words {
            let ahead = (&raw const *word).wrapping_add(AHEAD);
            _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
        }
        for v in 0..QUADS {
            let [even, odd] = &mut acc;
            for (t, (even, odd)) in even.iter_mut().zip(odd).enumerate() {
                let codes = quad::<BITS>(words, v, t);
                for b in 0..4 {
                    // A constant after unrolling.
                    let code = _mm512_srl_epi32(codes, _mm_cvtsi32_si128(8 * b as i32));
                    let code = if BITS == 8 {
                        _mm512_cvtepi32_ps(_mm512_and_si512(code, byte))
                    } else {
                        _mm512_permutexvar_ps(code, table)
                    };
                    let x = _mm512_set1_ps(x[4 * v + b]);
                    let sum = if b % 2 == 0 { &mut *even } else { &mut *odd };
                    *sum = _mm512_fmadd_ps(code, x, *sum);
                }
            }
        }
    }
    for (t, sums) in sums.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        // SAFETY: 16 numbers, at any alignment.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), _mm512_add_ps(acc[0][t], acc[1][t])) };
    }
}
