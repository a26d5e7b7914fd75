//! Exchanging the rows and the pairs of a tile.

use super::pack::{BfTile, ROWS};

/// Pair p of row r becomes pair r of row p.
#[inline]
pub(super) fn turn(tile: &mut BfTile) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the CPU has the instructions.
        unsafe { turn_avx512(tile) };
        return;
    }
    turn_plain(tile);
}

fn turn_plain(tile: &mut BfTile) {
    let pairs = tile.0.as_chunks_mut::<2>().0;
    for r in 0..ROWS {
        for p in 0..r {
            pairs.swap(r * ROWS + p, p * ROWS + r);
        }
    }
}

/// Four rounds, each of which exchanges blocks of half the size of the one before: of eight rows, of
/// four, of two, of one.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn turn_avx512(tile: &mut BfTile) {
    use std::arch::x86_64::*;
    let lines = tile.0.as_mut_ptr().cast::<__m512i>();
    let mut a = [_mm512_setzero_si512(); ROWS];
    for (r, a) in a.iter_mut().enumerate() {
        // SAFETY: a tile has sixteen aligned lines of 64 bytes.
        *a = unsafe { _mm512_load_si512(lines.add(r)) };
    }
    for i in 0..8 {
        let (x, y) = (a[i], a[i + 8]);
        a[i] = _mm512_shuffle_i32x4::<0b01_00_01_00>(x, y);
        a[i + 8] = _mm512_shuffle_i32x4::<0b11_10_11_10>(x, y);
    }
    let even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    let odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    for base in [0, 8] {
        for i in base..base + 4 {
            let (x, y) = (a[i], a[i + 4]);
            a[i] = _mm512_permutex2var_epi64(x, even, y);
            a[i + 4] = _mm512_permutex2var_epi64(x, odd, y);
        }
    }
    for base in [0, 4, 8, 12] {
        for i in base..base + 2 {
            let (x, y) = (a[i], a[i + 2]);
            a[i] = _mm512_unpacklo_epi64(x, y);
            a[i + 2] = _mm512_unpackhi_epi64(x, y);
        }
    }
    for i in (0..ROWS).step_by(2) {
        let (x, y) = (a[i], a[i + 1]);
        let (low, high) = (_mm512_unpacklo_epi32(x, y), _mm512_unpackhi_epi32(x, y));
        a[i] = _mm512_unpacklo_epi64(low, high);
        a[i + 1] = _mm512_unpackhi_epi64(low, high);
    }
    for (r, a) in a.iter().enumerate() {
        // SAFETY: as where it was read.
        unsafe { _mm512_store_si512(lines.add(r), *a) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_exchange_rows_and_pairs() {
        let tile = BfTile(std::array::from_fn(|i| i as u16));
        let (mut fast, mut plain) = (tile, tile);
        turn(&mut fast);
        turn_plain(&mut plain);
        for r in 0..ROWS {
            for p in 0..ROWS {
                let (from, to) = (2 * (p * ROWS + r), 2 * (r * ROWS + p));
                assert_eq!(plain.0[to..to + 2], tile.0[from..from + 2]);
            }
        }
        assert_eq!(fast.0, plain.0);
    }
}
