//! Which of the instantiated kernels a product takes.

use std::cmp::Reverse;

use gptq_core::Bits;

use super::half::Half;

/// Bytes of shared memory that a kernel may declare itself.
const OWN: u32 = 1024;

/// One way to cut the product: eights of tokens, tiles side by side, stages, blocks that fit a
/// multiprocessor. As instantiated in `cuda/packed_matmul_*.cu`.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) eights: usize,
    pub(super) wide: usize,
    stages: usize,
    pub(super) blocks: usize,
}

impl Shape {
    const NARROW: [Self; 2] = [
        Self { eights: 1, wide: 1, stages: 4, blocks: 4 },
        Self { eights: 2, wide: 1, stages: 4, blocks: 2 },
    ];

    pub(super) fn for_tokens(tokens: usize, bits: Bits, shared: u32) -> Self {
        let stages = if bits == Bits::B8 { 2 } else { 3 };
        let wide = Self { eights: 8, wide: 4, stages, blocks: 1 };
        match tokens {
            0..=8 => Self::NARROW[0],
            9..=16 => Self::NARROW[1],
            _ if wide.shared(bits) + OWN <= shared => wide,
            _ => Self::NARROW[1],
        }
    }

    /// Bytes of shared memory that a block is launched with; the kernel declares [`OWN`] at most.
    pub(super) fn shared(self, bits: Bits) -> u32 {
        let Self { eights, wide, stages, .. } = self;
        let stage =
            8 * eights * (2 * 128 + 16) + wide * 8 * 128 * bits.get() as usize + 2 * 8 * wide * 128;
        let sums = (8 / wide - 1) * 4 * eights * 32 * wide * 4;
        (stages * stage + sums) as u32
    }
}

/// Tokens at most for which the matrix-vector product is the one to take: at so few, a warp that
/// streams its codes from memory to registers spends the least instructions on each.
pub(super) const FEW: usize = 2;

/// Warps of one of its blocks, and blocks that fit a multiprocessor.
const WARPS: usize = 8;
const TOGETHER: usize = 2;

/// Stages of a block at most: x of them is in shared memory.
const MOST_STAGES: usize = 64;

/// What it takes to begin and to end a block, in the time that a stage takes: a guess, which no GPU
/// has confirmed.
const ROUND: usize = 4;

/// In how many parts the depth of every column is cut, each for a block: so that the multiprocessor
/// with the most blocks has as few stages as possible. Of equals the most, because more is on its
/// way at once. The same sizes on the same GPU are cut alike, so results repeat.
pub(super) fn parts(columns: usize, stages: usize, multiprocessors: usize) -> usize {
    let least = stages.div_ceil(MOST_STAGES).max(1);
    let most = stages.div_ceil(WARPS).max(least);
    let cost = |parts: usize| {
        let blocks = columns * parts;
        let rounds = blocks.div_ceil(multiprocessors * TOGETHER);
        blocks.div_ceil(multiprocessors) * stages.div_ceil(parts) + ROUND * rounds
    };
    (least..=most).min_by_key(|&parts| (cost(parts), Reverse(parts))).unwrap_or(least)
}

/// Bytes of shared memory for x of so many stages.
pub(super) fn matvec_shared(tokens: usize, stages: usize) -> u32 {
    (tokens * (stages * 2 * 128 + 16)) as u32
}

macro_rules! matvec_names {
    ($bits:literal, $how:literal, $half:expr, $whole:expr) => {
        match ($half, $whole) {
            (Half::F16, true) => concat!("packed_matvec_", $bits, "_", $how, "_f16_whole"),
            (Half::F16, false) => concat!("packed_matvec_", $bits, "_", $how, "_f16_any"),
            (Half::Bf16, true) => concat!("packed_matvec_", $bits, "_", $how, "_bf16_whole"),
            (Half::Bf16, false) => concat!("packed_matvec_", $bits, "_", $how, "_bf16_any"),
        }
    };
}

/// `whole` if no group ends within a stage.
pub(super) fn matvec_name(bits: Bits, symmetric: bool, half: Half, whole: bool) -> &'static str {
    match (bits, symmetric) {
        (Bits::B2, _) => matvec_names!("2", "asym", half, whole),
        (Bits::B3, _) => matvec_names!("3", "asym", half, whole),
        (Bits::B4, true) => matvec_names!("4", "sym", half, whole),
        (Bits::B4, false) => matvec_names!("4", "asym", half, whole),
        (Bits::B8, _) => matvec_names!("8", "asym", half, whole),
    }
}

macro_rules! names {
    ($bits:literal, $how:literal, $half:expr, $eights:expr) => {
        match ($half, $eights) {
            (Half::F16, 1) => concat!("packed_matmul_", $bits, "_", $how, "_f16_1"),
            (Half::F16, 2) => concat!("packed_matmul_", $bits, "_", $how, "_f16_2"),
            (Half::F16, _) => concat!("packed_matmul_", $bits, "_", $how, "_f16_8"),
            (Half::Bf16, 1) => concat!("packed_matmul_", $bits, "_", $how, "_bf16_1"),
            (Half::Bf16, 2) => concat!("packed_matmul_", $bits, "_", $how, "_bf16_2"),
            (Half::Bf16, _) => concat!("packed_matmul_", $bits, "_", $how, "_bf16_8"),
        }
    };
}

pub(super) fn kernel_name(bits: Bits, symmetric: bool, half: Half, eights: usize) -> &'static str {
    match (bits, symmetric) {
        (Bits::B2, _) => names!("2", "asym", half, eights),
        (Bits::B3, _) => names!("3", "asym", half, eights),
        (Bits::B4, true) => names!("4", "sym", half, eights),
        (Bits::B4, false) => names!("4", "asym", half, eights),
        (Bits::B8, _) => names!("8", "asym", half, eights),
    }
}

pub(super) fn dequantize_name(bits: Bits, half: Half) -> &'static str {
    match bits {
        Bits::B2 => half.choose("dequantize_2_f16", "dequantize_2_bf16"),
        Bits::B3 => half.choose("dequantize_3_f16", "dequantize_3_bf16"),
        Bits::B4 => half.choose("dequantize_4_f16", "dequantize_4_bf16"),
        Bits::B8 => half.choose("dequantize_8_f16", "dequantize_8_bf16"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_of_a_size_that_blocks_take() {
        for columns in [1, 2, 7, 64, 96, 132, 448, 2000] {
            for stages in [1, 2, 8, 9, 32, 65, 112, 1000] {
                for multiprocessors in [1, 4, 132] {
                    let parts = parts(columns, stages, multiprocessors);
                    assert!((1..=stages).contains(&parts), "{parts} parts of {stages} stages");
                    assert!(stages.div_ceil(parts) <= MOST_STAGES);
                }
            }
        }
    }

    /// Few columns are cut, so that every multiprocessor has work; many are not.
    #[test]
    fn depth_is_cut_where_outputs_are_few() {
        assert_eq!(parts(64, 32, 132), 4);
        assert_eq!(parts(1, 32, 132), 4);
        assert_eq!(parts(2000, 32, 4), 1);
    }
}
