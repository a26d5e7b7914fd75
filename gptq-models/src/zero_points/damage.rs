//! Zero points that old writers spoiled: destroyed by AutoGPTQ, shuffled by GPTQModel.

use std::borrow::Cow;

use gptq_pack::{PackedLinearRef, RawTensor, Width, lane};

/// Words that look as AutoGPTQ leaves them where a zero point is 0: it stores 0 − 1 as a whole word
/// of ones, shifted, so that every field above it in the word is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    /// Words whose upper fields, two or more, are all ones.
    wiped: usize,
    /// Fields of those words above the first one of all ones.
    lost: usize,
    /// Fields of all ones below others: this writer keeps fields apart.
    intact: usize,
}

impl Words {
    pub(super) fn of(packed: &PackedLinearRef<'_>) -> Self {
        let (bits, outs) = (packed.bits(), packed.out_features());
        let b = bits.get() as usize;
        let mut out = Self::default();
        for row in packed.qzeros().chunks(lane::words(bits, outs)) {
            for word in row {
                let fields = word.leading_ones() as usize / b;
                if fields >= 2 {
                    out.wiped += 1;
                    out.lost += fields - 1;
                }
            }
            out.intact += (0..outs)
                .filter(|&n| lane::code_at(bits, row, n) == bits.maxq())
                .filter(|&n| {
                    let (word, end) = (n * b / 32, n * b % 32 + b);
                    end <= 32 && row[word].leading_ones() as usize + end < 32
                })
                .count();
        }
        out
    }
}

/// The account of a whole checkpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct Damage {
    words: Words,
    layers: usize,
    first: Option<String>,
}

impl Damage {
    pub(super) fn add(&mut self, layer: &str, words: Words) {
        self.words.wiped += words.wiped;
        self.words.lost += words.lost;
        self.words.intact += words.intact;
        if words.wiped > 0 {
            self.layers += 1;
            self.first.get_or_insert_with(|| layer.to_owned());
        }
    }

    /// What is lost, unless such words can be chance: a single field of all ones with others above
    /// it proves a writer that keeps fields apart, and it takes a run of zero points of 0 and 1 to
    /// look wiped by accident.
    pub(crate) fn message(&self) -> Option<String> {
        let Words { wiped, lost, intact } = self.words;
        let first = self.first.as_ref().filter(|_| intact == 0 && lost >= 3)?;
        Some(format!(
            "{lost} zero points in {wiped} words of {} layers are lost (first: {first}): \
             AutoGPTQ stores a zero point of 0 as -1, whose ones overwrite the fields above it",
            self.layers
        ))
    }
}

/// All ones minus one per field as older GPTQModel releases had it: the words of each three-word
/// lane in the wrong order, so that their 3-bit files of format `gptq` are off by other amounts.
const SWAPPED: [u32; 3] = {
    let v2 = [0x2492_4924u32, 0x4924_9249, 0x9249_2492];
    let wrong = [0x2492_4924u32, 0x9249_2492, 0x4924_9249];
    [v2[0].wrapping_sub(wrong[0]), v2[1].wrapping_sub(wrong[1]), v2[2].wrapping_sub(wrong[2])]
};

/// The same zero points stored rightly.
const RIGHT: [u32; 3] = [0xdb6d_b6db, 0xb6db_6db6, 0x6db6_db6d];

/// Rewrites the `qzeros` of a symmetric 3-bit layer whose every word is what older GPTQModel
/// releases wrote; `None` for all others.
pub(crate) fn unswap(bits: Width, qzeros: &RawTensor<'_>) -> Option<RawTensor<'static>> {
    let (words, rest) = qzeros.bytes.as_chunks::<12>();
    let bytes = |words: [u32; 3]| words.map(u32::to_le_bytes).concat();
    let swapped = bytes(SWAPPED);
    let all = bits.get() == 3 && rest.is_empty() && !words.is_empty();
    (all && words.iter().all(|lane| lane[..] == swapped)).then(|| RawTensor {
        dtype: qzeros.dtype,
        shape: qzeros.shape.clone(),
        bytes: Cow::Owned(bytes(RIGHT).repeat(words.len())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shuffled_pattern_is_that_of_the_old_constants() {
        assert_eq!(SWAPPED, [0, 0xb6db_6db7, 0x4924_9249]);
    }
}
