//! Codes ⇄ words, for every width by one law: **code `n` occupies bits `[n·b, n·b + b)` of a stream
//! of 32-bit words, lowest bit first.**
//!
//! 32 codes of `b` bits fill exactly `b` words: a *lane*. Two, four and eight bits divide a word, so
//! their codes never straddle one; of a three-bit lane, codes 10 and 21 do. A stream of fewer codes
//! ends early, in its last partly filled word.

use gptq_core::Bits;

/// Codes in one lane.
pub const LANE: usize = 32;

/// Most words a lane can have: those of eight-bit codes.
pub const MAX_LANE_WORDS: usize = 8;

const _: () = {
    let mut i = 0;
    while i < Bits::ALL.len() {
        let bits = Bits::ALL[i];
        assert!(words(bits, LANE) == bits.get() as usize, "a lane of b-bit codes has b words");
        assert!(words(bits, LANE) <= MAX_LANE_WORDS, "a buffer of MAX_LANE_WORDS holds any lane");
        i += 1;
    }
};

/// Words that `n` codes fill, `⌈n·b / 32⌉`; never overflows.
pub const fn words(bits: Bits, n: usize) -> usize {
    words_of(bits.get(), n)
}

/// [`words`] for any width.
pub(crate) const fn words_of(bits: u32, n: usize) -> usize {
    let b = bits as usize;
    n / LANE * b + (n % LANE * b).div_ceil(32)
}

/// Writes a stream of codes from the first bit of `out` on; bits after the last code become 0.
///
/// Bits of a code beyond the width are dropped, so that a wrong code cannot harm its neighbours.
///
/// ```
/// use gptq_core::Bits;
/// use gptq_pack::lane;
///
/// let mut word = [0];
/// lane::pack(Bits::B4, 0..8, &mut word);
/// assert_eq!(word, [0x7654_3210]);
/// ```
///
/// # Panics
/// If the codes do not fill `out` exactly: `out.len()` must be [`words`] of their number.
pub fn pack(bits: Bits, codes: impl IntoIterator<Item = u8>, out: &mut [u32]) {
    let (b, maxq) = (bits.get(), bits.maxq());
    let (mut pending, mut filled, mut word) = (0u64, 0, 0);
    for code in codes {
        pending |= u64::from(code & maxq) << filled;
        filled += b;
        if filled >= 32 {
            out[word] = pending as u32;
            pending >>= 32;
            filled -= 32;
            word += 1;
        }
    }
    if filled > 0 {
        out[word] = pending as u32;
        word += 1;
    }
    assert_eq!(word, out.len(), "pack: the codes must fill the words");
}

/// The words of at most one lane of codes, as [`pack`] writes them; what is behind them is 0.
///
/// Eight codes of b bits are b bytes: neighbours move together in pairs, then pairs of pairs, then
/// pairs of those.
#[inline]
pub(crate) fn pack_lane(bits: Bits, codes: &[u8]) -> [u32; MAX_LANE_WORDS] {
    const EIGHT: usize = 8;
    let b = bits.get() as usize;
    let mut padded = [0u8; LANE];
    let lane = if let Some(whole) = codes.first_chunk::<LANE>() {
        whole
    } else {
        padded[..codes.len()].copy_from_slice(codes);
        &padded
    };
    // Room for the last eight, of which only b bytes count.
    let mut bytes = [0u8; LANE + EIGHT];
    for (i, eight) in lane.as_chunks::<EIGHT>().0.iter().enumerate() {
        let mut x = u64::from_le_bytes(*eight) & (u64::MAX / 0xff * u64::from(bits.maxq()));
        x |= x >> (8 - b);
        x &= u64::MAX / 0xffff * ((1 << (2 * b)) - 1);
        x |= x >> (16 - 2 * b);
        x &= u64::MAX / 0xffff_ffff * ((1 << (4 * b)) - 1);
        x |= x >> (32 - 4 * b);
        // What is beyond b bytes is written over by the next eight.
        bytes[i * b..][..EIGHT].copy_from_slice(&x.to_le_bytes());
    }
    bytes[LANE / EIGHT * b..].fill(0);
    let mut words = [0; MAX_LANE_WORDS];
    for (word, four) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*four);
    }
    words
}

/// Reads the first `codes.len()` codes of a stream, each by its own position: no state is shared
/// with [`pack`], so that a round trip proves both.
///
/// # Panics
/// If `words` is shorter than [`words`]`(bits, codes.len())`.
pub fn unpack(bits: Bits, words: &[u32], codes: &mut [u8]) {
    unpack_of(bits.get(), words, codes);
}

/// [`unpack`] for any width up to 8.
pub(crate) fn unpack_of(bits: u32, words: &[u32], codes: &mut [u8]) {
    match bits {
        1 => unpack_lanes::<1>(words, codes),
        2 => unpack_lanes::<2>(words, codes),
        3 => unpack_lanes::<3>(words, codes),
        4 => unpack_lanes::<4>(words, codes),
        5 => unpack_lanes::<5>(words, codes),
        6 => unpack_lanes::<6>(words, codes),
        7 => unpack_lanes::<7>(words, codes),
        _ => unpack_lanes::<8>(words, codes),
    }
}

/// With the width and the lane's length known when compiled, a lane is straight code.
fn unpack_lanes<const B: usize>(words: &[u32], codes: &mut [u8]) {
    let (whole_words, last_words) = words.split_at(codes.len() / LANE * B);
    let (whole, last) = codes.as_chunks_mut::<LANE>();
    for (words, codes) in whole_words.as_chunks::<B>().0.iter().zip(whole) {
        for (n, code) in codes.iter_mut().enumerate() {
            *code = code_of(B as u32, words, n);
        }
    }
    for (n, code) in last.iter_mut().enumerate() {
        *code = code_of(B as u32, last_words, n);
    }
}

/// Code `n` of a stream.
///
/// # Panics
/// If the stream ends before code `n` does.
pub fn code_at(bits: Bits, words: &[u32], n: usize) -> u8 {
    code_of(bits.get(), words, n)
}

/// [`code_at`] for any width up to 8.
#[inline]
pub(crate) fn code_of(bits: u32, words: &[u32], n: usize) -> u8 {
    let b = bits as usize;
    let (word, shift) = (n * b / 32, n * b % 32);
    let mut value = words[word] >> shift;
    if shift + b > 32 {
        value |= words[word + 1] << (32 - shift);
    }
    value as u8 & ((1u32 << bits) - 1) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_ends_in_its_last_partly_filled_word() {
        assert_eq!(words(Bits::B3, 0), 0);
        assert_eq!(words(Bits::B3, 10), 1);
        assert_eq!(words(Bits::B3, 11), 2);
        assert_eq!(words(Bits::B3, 33), 4);
        assert_eq!(words(Bits::B8, usize::MAX), usize::MAX / 4 + 1);
    }

    #[test]
    fn a_wrong_code_leaves_its_neighbours_alone() {
        let mut word = [0];
        pack(Bits::B4, [0, 0xff, 0], &mut word);
        assert_eq!(word, [0x0f0]);
    }

    #[test]
    fn lanes_are_streams() {
        for bits in Bits::ALL {
            for n in 0..=LANE {
                // Beyond the width too.
                let codes: Vec<u8> = (0..n).map(|i| (i * 37 + n * 11) as u8).collect();
                let mut stream = vec![0; words(bits, n)];
                pack(bits, codes.iter().copied(), &mut stream);
                let lane = pack_lane(bits, &codes);
                assert_eq!(lane[..stream.len()], stream);
                assert!(lane[stream.len()..].iter().all(|&word| word == 0));
            }
        }
    }

    #[test]
    #[should_panic(expected = "must fill")]
    fn words_left_over_are_a_bug_of_the_caller() {
        pack(Bits::B4, [1], &mut [0, 0]);
    }
}
