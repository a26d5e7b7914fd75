//! [`ZeroPointFormat`]: the one difference between the `gptq` and `gptq_v2` formats.

use std::{fmt, str::FromStr};

use gptq_core::Bits;

use crate::{Error, lane};

/// How zero points are stored. Its names are the values of `checkpoint_format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ZeroPointFormat {
    /// `gptq` (v1): the zero point minus one.
    Gptq,
    /// `gptq_v2`: the zero point.
    GptqV2,
}

impl ZeroPointFormat {
    /// The value of `checkpoint_format`.
    pub const fn as_str(self) -> &'static str {
        match self {
            ZeroPointFormat::Gptq => "gptq",
            ZeroPointFormat::GptqV2 => "gptq_v2",
        }
    }

    /// Packs one row of zero points: those of all outputs for one group.
    ///
    /// In v1 the subtraction is GPTQModel's: at 2, 4 and 8 bits from the whole word, modulo 2³², so
    /// that a zero point of 0 borrows from the field above it; at 3 bits from each field, modulo 8.
    /// Only [`load`](Self::load) undoes the borrow, which is why
    /// [`PackedLinear::pack`](crate::PackedLinearRef::pack) refuses such zeros.
    ///
    /// ```
    /// use gptq_core::Bits;
    /// use gptq_pack::ZeroPointFormat;
    ///
    /// let mut word = [0];
    /// ZeroPointFormat::Gptq.store(Bits::B4, &[8; 8], &mut word);
    /// assert_eq!(word, [0x7777_7777]);
    /// ```
    ///
    /// # Panics
    /// If `words.len()` is not [`lane::words`]`(bits, zeros.len())`.
    pub fn store(self, bits: Bits, zeros: &[u8], words: &mut [u32]) {
        let zeros = zeros.iter().copied();
        match (self, ones(bits)) {
            (ZeroPointFormat::GptqV2, _) => lane::pack(bits, zeros, words),
            (ZeroPointFormat::Gptq, None) => {
                lane::pack(bits, zeros.map(|z| z.wrapping_sub(1)), words);
            }
            (ZeroPointFormat::Gptq, Some(ones)) => {
                lane::pack(bits, zeros, words);
                for word in words {
                    *word = word.wrapping_sub(ones);
                }
            }
        }
    }

    /// Unpacks the first `zeros.len()` zero points of a row; the inverse of [`store`](Self::store).
    ///
    /// # Panics
    /// If `words` is shorter than [`lane::words`]`(bits, zeros.len())`.
    pub fn load(self, bits: Bits, words: &[u32], zeros: &mut [u8]) {
        match (self, ones(bits)) {
            (ZeroPointFormat::GptqV2, _) => lane::unpack(bits, words, zeros),
            (ZeroPointFormat::Gptq, None) => {
                lane::unpack(bits, words, zeros);
                for zero in zeros {
                    *zero = zero.wrapping_add(1) & bits.maxq();
                }
            }
            (ZeroPointFormat::Gptq, Some(ones)) => {
                let in_word = 32 / bits.get() as usize;
                for (n, zeros) in zeros.chunks_mut(in_word).enumerate() {
                    lane::unpack(bits, &[words[n].wrapping_add(ones)], zeros);
                }
            }
        }
    }

    /// How many of a row's first `n` stored fields mean different zero points to different readers:
    /// in v1 those of all ones, which wrap to 0, become `2^b`, or carry into the field above.
    /// Always 0 in v2.
    ///
    /// # Panics
    /// If `words` is shorter than [`lane::words`]`(bits, n)`.
    pub fn ambiguous(self, bits: Bits, words: &[u32], n: usize) -> usize {
        match self {
            ZeroPointFormat::GptqV2 => 0,
            ZeroPointFormat::Gptq => {
                (0..n).filter(|&i| lane::code_at(bits, words, i) == bits.maxq()).count()
            }
        }
    }
}

/// A word whose fields are all 1, for the widths that divide a word.
const fn ones(bits: Bits) -> Option<u32> {
    match bits {
        Bits::B2 => Some(0x5555_5555),
        Bits::B3 => None,
        Bits::B4 => Some(0x1111_1111),
        Bits::B8 => Some(0x0101_0101),
    }
}

impl fmt::Display for ZeroPointFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ZeroPointFormat {
    type Err = Error;

    /// Reads the value of `checkpoint_format`.
    fn from_str(s: &str) -> Result<Self, Error> {
        [ZeroPointFormat::Gptq, ZeroPointFormat::GptqV2]
            .into_iter()
            .find(|format| format.as_str() == s)
            .ok_or_else(|| Error::UnsupportedFormat {
                key: "checkpoint_format".to_owned(),
                found: s.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_zero_survives_both_formats_at_every_width() {
        for bits in Bits::ALL {
            let zeros: Vec<u8> = (0..=bits.maxq()).chain([0, 0, 1]).collect();
            let mut words = vec![0; lane::words(bits, zeros.len())];
            for format in [ZeroPointFormat::Gptq, ZeroPointFormat::GptqV2] {
                format.store(bits, &zeros, &mut words);
                let mut back = vec![0; zeros.len()];
                format.load(bits, &words, &mut back);
                assert_eq!(back, zeros, "{bits:?} {format}");
            }
        }
    }

    #[test]
    fn a_stored_minus_one_is_counted_in_v1_only() {
        assert_eq!(ZeroPointFormat::Gptq.ambiguous(Bits::B4, &[0xf770_0e6f], 7), 1);
        assert_eq!(ZeroPointFormat::Gptq.ambiguous(Bits::B4, &[0xf770_0e6f], 8), 2);
        assert_eq!(ZeroPointFormat::GptqV2.ambiguous(Bits::B4, &[u32::MAX], 8), 0);
    }

    #[test]
    fn names_are_those_of_checkpoint_format() {
        assert_eq!("gptq_v2".parse(), Ok(ZeroPointFormat::GptqV2));
        let marlin = "marlin".parse::<ZeroPointFormat>().unwrap_err();
        assert!(marlin.to_string().contains("\"marlin\""), "{marlin}");
    }
}
