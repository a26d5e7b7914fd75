//! Which of the instantiated kernels a product takes.

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
