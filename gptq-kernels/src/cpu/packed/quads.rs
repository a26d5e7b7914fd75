//! Where the bits of a code are.
//!
//! A lane of 32 codes of one output is 8 quads: 4 neighbours, a byte each, side by side in a 32-bit
//! word, as instructions that multiply bytes want them. A plane of 8, 4, 2 or 1 bits holds its part
//! of 1, 2, 4 or 8 quads in a word, one above the other in each byte. Widths that are powers of two
//! are one plane; 3 bits are a plane of 2 and a plane of 1.

/// Codes per lane.
pub(crate) const LANE: usize = 32;

/// Quads per lane.
pub(crate) const QUADS: usize = LANE / 4;

/// A quad's part of a plane: the word it is in, how far up, and the mask of its bits in each byte.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub(crate) word: usize,
    pub(crate) shift: u32,
    pub(crate) mask: u32,
    /// Where the part belongs in the code.
    pub(crate) up: u32,
}

/// The parts of quad `v`; of a width that is one plane, the second is `None`.
#[inline(always)]
pub(crate) const fn parts<const BITS: usize>(v: usize) -> (Part, Option<Part>) {
    const fn part(bits: usize, first: usize, v: usize, up: u32) -> Part {
        let ones = 0x0101_0101;
        let mask = ((1 << bits) - 1) * ones;
        let per_word = 8 / bits;
        Part { word: first + v / per_word, shift: (v % per_word * bits) as u32, mask, up }
    }
    match BITS {
        3 => (part(2, 0, v, 0), Some(part(1, 2, v, 2))),
        _ => (part(BITS, 0, v, 0), None),
    }
}

/// A quad of one output.
#[inline(always)]
pub(crate) fn quad<const BITS: usize>(word: impl Fn(usize) -> u32, v: usize) -> u32 {
    let take = |part: Part| (word(part.word) >> part.shift & part.mask) << part.up;
    match parts::<BITS>(v) {
        (one, None) => take(one),
        (low, Some(high)) => take(low) | take(high),
    }
}

/// Puts the codes of a lane into words that are still zero there: `or` gets a word and its bits.
#[inline(always)]
pub(crate) fn put<const BITS: usize>(mut or: impl FnMut(usize, u32), codes: &[u8; LANE]) {
    for (v, codes) in codes.as_chunks::<4>().0.iter().enumerate() {
        let quad = u32::from_le_bytes(*codes);
        let mut give = |part: Part| or(part.word, (quad >> part.up & part.mask) << part.shift);
        let (one, two) = parts::<BITS>(v);
        give(one);
        if let Some(two) = two {
            give(two);
        }
    }
}

/// The activations that meet quad `v` of a lane, as one word.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn four(x: &[i8; LANE], v: usize) -> i32 {
    i32::from_le_bytes([x[4 * v], x[4 * v + 1], x[4 * v + 2], x[4 * v + 3]].map(|x| x as u8))
}
