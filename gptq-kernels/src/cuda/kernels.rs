//! Which of the instantiated kernels a product takes.

use gptq_core::Bits;

use super::half::Half;

/// Bytes of shared memory that a kernel may declare itself.
const OWN: u32 = 1024;

/// What a kernel multiplies: its instantiations differ by it.
#[derive(Clone, Copy)]
pub(super) struct Codes {
    pub(super) bits: Bits,
    /// Whether zero points are the middle, which only kernels of 4 bits know without reading.
    pub(super) symmetric: bool,
    pub(super) half: Half,
}

macro_rules! name {
    ($family:literal, $codes:expr, $last:literal) => {{
        let Codes { bits, symmetric, half } = $codes;
        match (bits, symmetric) {
            (Bits::B2, _) => name!($family, half, "2_asym", $last),
            (Bits::B3, _) => name!($family, half, "3_asym", $last),
            (Bits::B4, true) => name!($family, half, "4_sym", $last),
            (Bits::B4, false) => name!($family, half, "4_asym", $last),
            (Bits::B8, _) => name!($family, half, "8_asym", $last),
        }
    }};
    ($family:literal, $half:expr, $how:literal, $last:literal) => {
        $half.choose(
            concat!($family, "_", $how, "_f16_", $last),
            concat!($family, "_", $how, "_bf16_", $last),
        )
    };
}

/// What a GPU offers to it.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Bytes of shared memory of a block.
    pub(super) shared: u32,
    /// Whether products of warpgroups are there: on Hopper, and on nothing before or after it.
    pub(super) warpgroups: bool,
    /// Whether kernels begin while those before them still run: from Hopper on.
    pub(super) early: bool,
}

/// One way to cut the product: eights of tokens, tiles side by side, stages, blocks that fit a
/// multiprocessor. As instantiated in `cuda/packed_matmul_*.cu` and `cuda/packed_wgmma_*.cu`.
///
/// What limits it is how much goes from the second cache to the multiprocessors, which is little
/// faster than memory: for `wide` tiles of codes, 64 · 16 · `bits` bits each, they read the tokens of
/// sixteen inputs once, and in the end each writes 64 · `wide` sums of every token. So tiles are the
/// wider, the more tokens there are.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) eights: usize,
    pub(super) wide: usize,
    stages: usize,
    pub(super) blocks: usize,
    warpgroups: bool,
}

impl Shape {
    pub(super) fn for_tokens(tokens: usize, codes: Codes, limits: Limits) -> Self {
        let fewer = usize::from(codes.bits == Bits::B8);
        let shape =
            |eights, wide, stages, blocks| Self { eights, wide, stages, blocks, warpgroups: false };
        let sixteen = shape(2, 4, 3 - fewer, 2);
        match tokens {
            0..=8 => return shape(1, 2, 4, 2),
            9..=16 => return sixteen,
            _ => {}
        }
        if limits.warpgroups && matches!(codes.bits, Bits::B4 | Bits::B8) {
            let (eights, stages) = if tokens <= 64 { (8, 5) } else { (16, 4) };
            return Self { warpgroups: true, ..shape(eights, 4, stages - fewer, 1) };
        }
        let many = shape(8, 4, 3 - fewer, 1);
        if many.shared(codes) + OWN <= limits.shared { many } else { sixteen }
    }

    /// Bytes of shared memory that a block is launched with; the kernel declares [`OWN`] at most.
    pub(super) fn shared(self, codes: Codes) -> u32 {
        let Self { eights, wide, stages, warpgroups, .. } = self;
        // Rows of tokens are beside the banks of each other by sixteen bytes, or by their order.
        let row = 2 * 128 + if warpgroups { 0 } else { 16 };
        let grids = if codes.symmetric { 1 } else { 2 };
        let weights = wide * 8 * 128 * (codes.bits.get() as usize + grids);
        // Behind the stages, what warps of a column add up; before them, what brings them to a
        // multiple of 1024.
        let other = if warpgroups { 1024 } else { (8 / wide - 1) * 4 * eights * 32 * wide * 4 };
        (stages * (8 * eights * row + weights) + other) as u32
    }

    /// The kernel that adds what its blocks have.
    pub(super) fn sums(self) -> &'static str {
        match self.eights {
            1 => "packed_sums_1",
            2 => "packed_sums_2",
            8 => "packed_sums_8",
            _ => "packed_sums_16",
        }
    }

    pub(super) fn kernel(self, codes: Codes) -> &'static str {
        match (self.warpgroups, self.eights) {
            (true, 8) => name!("packed_wgmma", codes, "8"),
            (true, _) => name!("packed_wgmma", codes, "16"),
            (false, 1) => name!("packed_matmul", codes, "1"),
            (false, 2) => name!("packed_matmul", codes, "2"),
            (false, _) => name!("packed_matmul", codes, "8"),
        }
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
/// way at once; but where kernels begin `early` the fewest, because what is on its way beside them is
/// the next kernel's. The same sizes on the same GPU are cut alike, so results repeat.
pub(super) fn parts(columns: usize, stages: usize, multiprocessors: usize, early: bool) -> usize {
    let least = stages.div_ceil(MOST_STAGES).max(1);
    let most = stages.div_ceil(WARPS).max(least);
    let cost = |parts: usize| {
        let blocks = columns * parts;
        let rounds = blocks.div_ceil(multiprocessors * TOGETHER);
        blocks.div_ceil(multiprocessors) * stages.div_ceil(parts) + ROUND * rounds
    };
    let key = |&parts: &usize| (cost(parts), if early { parts } else { most - parts });
    (least..=most).min_by_key(key).unwrap_or(least)
}

/// Bytes of shared memory for x of so many stages.
pub(super) fn matvec_shared(tokens: usize, stages: usize) -> u32 {
    (tokens * (stages * 2 * 128 + 16)) as u32
}

/// `whole` if no group ends within a stage.
pub(super) fn matvec_name(codes: Codes, whole: bool) -> &'static str {
    if whole {
        name!("packed_matvec", codes, "whole")
    } else {
        name!("packed_matvec", codes, "any")
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
    use super::{super::modules, *};

    /// Whatever is chosen is a kernel of this build, and fits.
    #[test]
    fn shapes_are_instantiated() {
        let shared = [99, 163, 227].map(|kilobytes| kilobytes << 10);
        for (bits, symmetric) in
            Bits::ALL.iter().map(|&bits| (bits, false)).chain([(Bits::B4, true)])
        {
            for half in [Half::F16, Half::Bf16] {
                let codes = Codes { bits, symmetric, half };
                for tokens in [3, 8, 9, 16, 17, 64, 65, 511] {
                    for (shared, warpgroups) in
                        [(shared[0], false), (shared[1], false), (shared[2], true)]
                    {
                        let shape = Shape::for_tokens(
                            tokens,
                            codes,
                            Limits { shared, warpgroups, early: warpgroups },
                        );
                        let kernel = shape.kernel(codes);
                        assert!(
                            modules::source(kernel).or(modules::early(kernel)).is_some(),
                            "{kernel}"
                        );
                        assert!(shape.shared(codes) + OWN <= shared, "{kernel}");
                        assert!(modules::source(shape.sums()).is_some(), "{}", shape.sums());
                    }
                }
                for name in [matvec_name(codes, true), matvec_name(codes, false)] {
                    assert!(modules::source(name).is_some(), "{name}");
                }
            }
        }
    }

    #[test]
    fn parts_are_of_a_size_that_blocks_take() {
        for columns in [1, 2, 7, 64, 96, 132, 448, 2000] {
            for stages in [1, 2, 8, 9, 32, 65, 112, 1000] {
                for (multiprocessors, early) in [(1, true), (4, false), (132, false), (132, true)] {
                    let parts = parts(columns, stages, multiprocessors, early);
                    assert!((1..=stages).contains(&parts), "{parts} parts of {stages} stages");
                    assert!(stages.div_ceil(parts) <= MOST_STAGES);
                }
            }
        }
    }

    /// Few columns are cut, so that every multiprocessor has work; many are not.
    #[test]
    fn depth_is_cut_where_outputs_are_few() {
        assert_eq!(parts(64, 32, 132, false), 4);
        assert_eq!(parts(64, 32, 132, true), 2);
        assert_eq!(parts(1, 32, 132, false), 4);
        assert_eq!(parts(2000, 32, 4, false), 1);
    }
}
