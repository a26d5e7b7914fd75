//! The instruction that sums products of bytes, as fast as it goes.

use super::isa::Isa;

/// Runs it on registers alone and returns the operations done; `None` where the CPU has none.
pub(crate) fn int8_peak(isa: Isa, rounds: usize) -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    {
        if isa.has_amx() {
            return Some(amx(rounds));
        }
        if isa.has_vnni() {
            // SAFETY: the level says that the instructions are there.
            return Some(unsafe { vnni(rounds) });
        }
    }
    let _ = (isa, rounds);
    None
}

#[cfg(target_arch = "x86_64")]
fn amx(rounds: usize) -> u64 {
    use std::arch::asm;
    // SAFETY: only called where tiles are usable.
    let _tiles = unsafe { super::amx::Tiles::configure() };
    // A tile product takes as long as sixteen of the vector instruction.
    let rounds = rounds.div_ceil(16);
    for _ in 0..rounds {
        // SAFETY: registers only.
        unsafe {
            asm!(
                "tdpbusd tmm0, tmm4, tmm6",
                "tdpbusd tmm1, tmm4, tmm7",
                "tdpbusd tmm2, tmm5, tmm6",
                "tdpbusd tmm3, tmm5, tmm7",
                options(nostack, nomem),
            );
        }
    }
    (rounds * 4 * 2 * 16 * 16 * 64) as u64
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn vnni(rounds: usize) -> u64 {
    use std::arch::x86_64::*;
    const SUMS: usize = 12;
    let mut sums = [_mm512_setzero_si512(); SUMS];
    let ones = _mm512_set1_epi8(1);
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, ones, ones);
        }
    }
    let total = sums.iter().map(|&sum| i64::from(_mm512_reduce_add_epi32(sum))).sum::<i64>();
    std::hint::black_box(total);
    (rounds * SUMS * 2 * 64) as u64
}
