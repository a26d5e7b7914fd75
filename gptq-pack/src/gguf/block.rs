//! One block, bit for bit.

use half::f16;

use crate::{Error, names::Part};

/// Weights of a block.
pub const BLOCK: usize = 32;

/// An encoding of 32 neighbouring weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(non_camel_case_types, reason = "the names of the format")]
pub enum BlockType {
    /// `d` (half precision), then 16 bytes: integer `j` in the low and `j + 16` in the high half of
    /// byte `j`. Weight `d · (q − 8)`; 4.5 bits per weight.
    Q4_0,
    /// `d`, `m`, then integers as in `Q4_0`. Weight `d · q + m`; 5 bits per weight.
    Q4_1,
    /// `d`, then a 32-bit word with the fifth bit of integer `j` in bit `j`, then the low four bits
    /// as in `Q4_0`. Weight `d · (q − 16)`; 5.5 bits per weight.
    Q5_0,
    /// `d`, then 32 signed bytes. Weight `d · q`; 8.5 bits per weight.
    Q8_0,
}

impl BlockType {
    /// Smallest first.
    pub const ALL: [BlockType; 4] = [Self::Q4_0, Self::Q4_1, Self::Q5_0, Self::Q8_0];

    /// Bytes of a block of 32 weights.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q8_0 => 34,
        }
    }

    /// Bytes of a row of `in_features` weights, a multiple of 32.
    pub const fn row_bytes(self, in_features: usize) -> usize {
        in_features / BLOCK * self.block_bytes()
    }

    /// The largest integer, counted from 0.
    pub(super) const fn largest(self) -> i16 {
        match self {
            Self::Q4_0 | Self::Q4_1 => 15,
            Self::Q5_0 => 31,
            Self::Q8_0 => 255,
        }
    }

    /// The integer that stands for weight 0; `None` if the block says it itself, by `m`.
    pub(super) const fn center(self) -> Option<i16> {
        match self {
            Self::Q4_0 => Some(8),
            Self::Q4_1 => None,
            Self::Q5_0 => Some(16),
            Self::Q8_0 => Some(128),
        }
    }

    /// The weights of one row's blocks.
    pub(super) fn decode_row(self, bytes: &[u8], out: &mut [f32]) {
        let blocks = bytes.chunks_exact(self.block_bytes());
        for (bytes, out) in blocks.zip(out.as_chunks_mut::<BLOCK>().0) {
            *out = Block::load(self, bytes).weights(self);
        }
    }
}

impl std::fmt::Display for BlockType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q8_0 => "Q8_0",
        })
    }
}

/// A block of any type. Integers count from 0: a stored byte of `Q8_0` is `q − 128`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Block {
    pub(super) d: f16,
    /// 0 unless the type has one.
    pub(super) m: f16,
    pub(super) q: [u8; BLOCK],
}

impl Block {
    pub(super) fn store(&self, ty: BlockType, out: &mut Vec<u8>) {
        out.extend(self.d.to_le_bytes());
        match ty {
            BlockType::Q4_0 => {}
            BlockType::Q4_1 => out.extend(self.m.to_le_bytes()),
            BlockType::Q5_0 => {
                let bit = |high: u32, (j, q): (usize, &u8)| high | u32::from(q >> 4) << j;
                out.extend(self.q.iter().enumerate().fold(0, bit).to_le_bytes());
            }
            BlockType::Q8_0 => return out.extend(self.q.map(|q| q ^ 0x80)),
        }
        let (low, high) = self.q.split_at(BLOCK / 2);
        out.extend(low.iter().zip(high).map(|(low, high)| low & 15 | high << 4));
    }

    /// `bytes` are the type's block.
    pub(super) fn load(ty: BlockType, bytes: &[u8]) -> Self {
        let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let integers = &bytes[ty.block_bytes() - if ty == BlockType::Q8_0 { BLOCK } else { 16 }..];
        let nibble = |j: usize| integers[j % 16] >> (4 * (j / 16)) & 15;
        let fifth = |j: usize| bytes[2 + j / 8] >> (j % 8) & 1;
        let q = std::array::from_fn(|j| match ty {
            BlockType::Q4_0 | BlockType::Q4_1 => nibble(j),
            BlockType::Q5_0 => nibble(j) | fifth(j) << 4,
            BlockType::Q8_0 => integers[j] ^ 0x80,
        });
        let m = if ty == BlockType::Q4_1 { half(2) } else { f16::ZERO };
        Self { d: half(0), m, q }
    }

    pub(super) fn weights(&self, ty: BlockType) -> [f32; BLOCK] {
        let (d, m) = (self.d.to_f32(), self.m.to_f32());
        match ty.center() {
            Some(center) => self.q.map(|q| d * f32::from(i16::from(q) - center)),
            None => self.q.map(|q| d * f32::from(q) + m),
        }
    }

    /// The block if half precision holds its `d` and `m`; otherwise an error at that place.
    pub(super) fn at(self, row: usize, column: usize) -> Result<Self, Error> {
        match [self.d, self.m].into_iter().find(|v| !v.is_finite()) {
            None => Ok(self),
            Some(v) if v.is_nan() => {
                Err(Error::NotFinite { part: Part::Scales, value: v.to_f32(), row, column })
            }
            Some(v) => {
                Err(Error::HalfOverflow { part: Part::Scales, value: v.to_f32(), row, column })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(ty: BlockType, m: f32, q: impl Fn(usize) -> u8) -> Vec<u8> {
        let block = Block { d: f16::from_f32(0.5), m: f16::from_f32(m), q: std::array::from_fn(q) };
        let mut bytes = Vec::new();
        block.store(ty, &mut bytes);
        assert_eq!(bytes.len(), ty.block_bytes());
        assert_eq!(Block::load(ty, &bytes), block);
        bytes
    }

    /// 0.5 is 0x3800, −2 is 0xC000, in half precision.
    #[test]
    fn blocks_by_hand() {
        let q4_0 = stored(BlockType::Q4_0, 0.0, |j| if j < 16 { j as u8 } else { 31 - j as u8 });
        let nibbles = [
            0xF0, 0xE1, 0xD2, 0xC3, 0xB4, 0xA5, 0x96, 0x87, 0x78, 0x69, 0x5A, 0x4B, 0x3C, 0x2D,
            0x1E, 0x0F,
        ];
        assert_eq!(q4_0[..2], [0x00, 0x38]);
        assert_eq!(q4_0[2..], nibbles);

        let q4_1 = stored(BlockType::Q4_1, -2.0, |j| (j % 16) as u8);
        assert_eq!(q4_1[..6], [0x00, 0x38, 0x00, 0xC0, 0x00, 0x11]);

        // 16 at place 1 and 31 at place 30: bits 1 and 30 of the word of fifth bits.
        let q5_0 = stored(BlockType::Q5_0, 0.0, |j| {
            [0, 16, 31][usize::from(j == 1) + 2 * usize::from(j == 30)]
        });
        assert_eq!(q5_0[..6], [0x00, 0x38, 0x02, 0x00, 0x00, 0x40]);
        assert_eq!(q5_0[6..][13..], [0x00, 0xF0, 0x00]);

        let q8_0 = stored(BlockType::Q8_0, 0.0, |j| [128, 129, 127, 255, 0][j.min(4)]);
        assert_eq!(q8_0[..7], [0x00, 0x38, 0x00, 0x01, 0xFF, 0x7F, 0x80]);
    }

    #[test]
    fn weights_by_hand() {
        let weights = |ty, m| {
            let q = std::array::from_fn(|j| (j % 16) as u8);
            let block = Block { d: f16::from_f32(0.5), m: f16::from_f32(m), q };
            let w = block.weights(ty);
            [w[0], w[15], w[16]]
        };
        assert_eq!(weights(BlockType::Q4_0, 0.0), [-4.0, 3.5, -4.0]);
        assert_eq!(weights(BlockType::Q4_1, -2.0), [-2.0, 5.5, -2.0]);
        assert_eq!(weights(BlockType::Q5_0, 0.0), [-8.0, -0.5, -8.0]);
        assert_eq!(weights(BlockType::Q8_0, 0.0), [-64.0, -56.5, -64.0]);
    }
}
