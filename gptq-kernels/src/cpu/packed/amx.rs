//! Packed weights times many tokens of bytes, with tiles (Intel AMX).
//!
//! A tile of activations is 16 tokens × 64 slots as they lie; one of weights is 16 quads × 16
//! outputs, unpacked once for all tokens. Up to 4 bits, the zero point is subtracted while unpacking
//! and the difference is a signed byte; codes of 8 bits stay unsigned, and `zero · total` is
//! subtracted from the sums.

use core::arch::{asm, x86_64::*};

use super::{
    super::{amx::Tiles as Registers, isa::Isa},
    bytes::{Bytes, TOKENS},
    half::{Element, F16},
    lines::{Line, Lines},
    quads::QUADS,
    tiles::{Strip, Tiles, WORD},
    vnni::quad,
};

/// Tokens from which half-empty tiles are faster than vectors.
pub(crate) const WORTHWHILE: usize = 8;

/// Lanes per tile, and lines per tile.
const LANES: usize = 2;
const TILE: usize = 16;

/// Blocks whose weights stay in the nearest cache while all tokens pass: 24 KiB.
const NEAR: usize = 3;

/// `y = W · x` for one strip and the tokens from `first` on; `y` has a multiple of [`TOKENS`] rows.
pub(crate) fn strip(
    isa: Isa,
    tiles: &Tiles,
    strip: usize,
    x: &Bytes,
    first: usize,
    y: &mut [Strip<f32>],
) {
    assert!(isa.has_amx() && y.len().is_multiple_of(TOKENS), "amx: whole tiles of a CPU with them");
    // SAFETY: the level says that the CPU has the instructions, and that this process may.
    unsafe { by_bits!(tiles.bits, BITS => run::<BITS>(tiles, strip, x, first, y)) }
}

/// One block of the strip, unpacked.
struct Panel {
    /// Where its tiles begin, in lines, and how many steps of 64 slots it has.
    at: usize,
    steps: usize,
    lane: usize,
    scales: Strip<f32>,
    zeros: Strip<f32>,
}

/// # Safety
/// The CPU must have AVX-512 and AMX, usable by this process.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn run<const BITS: usize>(
    tiles: &Tiles,
    strip: usize,
    x: &Bytes,
    first: usize,
    y: &mut [Strip<f32>],
) {
    let blocks = tiles.slots.blocks();
    let mut at = 0;
    let panels: Vec<Panel> = blocks
        .map(|(g, lanes)| {
            let group = tiles.group(strip, g);
            let panel = Panel {
                at,
                steps: lanes.len().div_ceil(LANES),
                lane: lanes.start,
                scales: group.scales.map(|scale| F16(scale).widen()),
                zeros: group.zeros.map(f32::from),
            };
            at += panel.steps * TILE * WORD;
            panel
        })
        .collect();
    let mut weights = Lines::zeroed(at);
    for ((g, lanes), panel) in tiles.slots.blocks().zip(&panels) {
        let group = tiles.group(strip, g);
        let words = tiles.lanes(&group, g, lanes);
        unpack::<BITS>(words, group.zeros, &mut weights[panel.at..]);
    }
    y.fill([0.0; _]);
    // SAFETY: the caller's promise.
    let _registers = unsafe { Registers::configure() };
    let mut sums = [Line([0; 16]); 4 * TILE];
    for (chunk, panels) in panels.chunks(NEAR).enumerate() {
        for (t, y) in y.as_chunks_mut::<TOKENS>().0.iter_mut().enumerate() {
            let token = first + t * TOKENS;
            for half in 0..2 {
                // Tiles multiply while vectors scale the sums of the block before.
                for i in 0..=panels.len() {
                    if let Some(panel) = panels.get(i) {
                        let weights = &weights[panel.at + half * 2 * TILE..];
                        // SAFETY: tiles are configured; `x` has TOKENS rows from `token` on, of
                        // which 64 bytes may be read wherever a block's slots are, and `weights`
                        // has two tiles for each step.
                        unsafe { multiply::<BITS>(x, token, panel, weights) };
                    }
                    if i > 0 {
                        let block = chunk * NEAR + i - 1;
                        scale::<BITS>(x, token, block, &panels[i - 1], half, &sums, y);
                    }
                    // SAFETY: tiles are configured.
                    unsafe { store(&mut sums) };
                }
            }
        }
    }
}

/// Writes the tiles of a block: step by step, [`WORD`] tiles of 16 outputs.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn unpack<const BITS: usize>(words: &[Line], zeros: &Strip<u8>, weights: &mut [Line]) {
    let zeros: [__m512i; WORD] = std::array::from_fn(|t| {
        let word = |k: usize| u32::from(zeros[t * 16 + k]) * 0x0101_0101;
        let words: [u32; 16] = std::array::from_fn(word);
        // SAFETY: 64 bytes, at any alignment.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    });
    for (lane, words) in words.chunks_exact(BITS * WORD).enumerate() {
        for v in 0..QUADS {
            for (t, &zeros) in zeros.iter().enumerate() {
                let codes = quad::<BITS>(words, v, t);
                let codes = if BITS == 8 { codes } else { _mm512_sub_epi8(codes, zeros) };
                let row = (lane / LANES * WORD + t) * TILE + lane % LANES * QUADS + v;
                // SAFETY: a line is 64 bytes and aligned to that.
                unsafe { _mm512_store_si512((&raw mut weights[row]).cast(), codes) };
            }
        }
    }
}

/// Sums over a block, left in four tiles, of 2 × 16 tokens and 2 × 16 outputs.
///
/// # Safety
/// Tiles must be configured, and everything that the steps of `panel` read must be there.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn multiply<const BITS: usize>(x: &Bytes, token: usize, panel: &Panel, weights: &[Line]) {
    let upper = x.from(token, panel.lane).as_ptr();
    let lower = x.from(token + TILE, panel.lane).as_ptr();
    macro_rules! product {
        ($instruction:literal) => {
            for step in 0..panel.steps {
                let weights = weights[step * TILE * WORD..].as_ptr();
                asm!(
                    "tileloadd tmm4, [{upper} + {stride}]",
                    "tileloadd tmm6, [{left} + {line}]",
                    concat!($instruction, " tmm0, tmm4, tmm6"),
                    "tileloadd tmm7, [{right} + {line}]",
                    concat!($instruction, " tmm1, tmm4, tmm7"),
                    "tileloadd tmm5, [{lower} + {stride}]",
                    concat!($instruction, " tmm2, tmm5, tmm6"),
                    concat!($instruction, " tmm3, tmm5, tmm7"),
                    upper = in(reg) upper.add(step * 64),
                    lower = in(reg) lower.add(step * 64),
                    stride = in(reg) x.stride(),
                    left = in(reg) weights,
                    right = in(reg) weights.add(TILE),
                    line = in(reg) 64usize,
                    options(nostack, readonly),
                );
            }
        };
    }
    // SAFETY: the caller's promise; the compiler uses no tiles.
    unsafe {
        asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack));
        if BITS == 8 {
            product!("tdpbsud");
        } else {
            product!("tdpbssd");
        }
    }
}

/// What [`multiply`] left.
///
/// # Safety
/// Tiles must be configured.
#[inline]
unsafe fn store(sums: &mut [Line; 4 * TILE]) {
    // SAFETY: the caller's promise, and four times 16 lines to write.
    unsafe {
        asm!(
            "tilestored [{a} + {line}], tmm0",
            "tilestored [{b} + {line}], tmm1",
            "tilestored [{c} + {line}], tmm2",
            "tilestored [{d} + {line}], tmm3",
            a = in(reg) sums.as_mut_ptr(),
            b = in(reg) sums.as_mut_ptr().add(TILE),
            c = in(reg) sums.as_mut_ptr().add(2 * TILE),
            d = in(reg) sums.as_mut_ptr().add(3 * TILE),
            line = in(reg) 64usize,
            options(nostack),
        );
    }
}

/// `y += scale · factor · (sum − zero · total)` for 32 outputs of the strip.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn scale<const BITS: usize>(
    x: &Bytes,
    token: usize,
    block: usize,
    panel: &Panel,
    half: usize,
    sums: &[Line; 4 * TILE],
    y: &mut [Strip<f32>; TOKENS],
) {
    let factors: &[f32; TOKENS] = x.factors(block)[token..].first_chunk().expect("padded tokens");
    let totals: &[f32; TOKENS] = x.totals(block)[token..].first_chunk().expect("padded tokens");
    for side in 0..2 {
        let column = half * 32 + side * 16;
        // SAFETY: 16 numbers from `column` on are inside a strip.
        let (scales, zeros) = unsafe {
            let scales = _mm512_loadu_ps(panel.scales.as_ptr().add(column));
            (scales, _mm512_loadu_ps(panel.zeros.as_ptr().add(column)))
        };
        for t in 0..TOKENS {
            let line = &sums[(t / TILE * 2 + side) * TILE + t % TILE];
            // SAFETY: a line is 64 bytes and aligned to that.
            let sum = _mm512_cvtepi32_ps(unsafe { _mm512_load_si512((&raw const *line).cast()) });
            let sum = match BITS {
                8 => _mm512_fnmadd_ps(zeros, _mm512_set1_ps(totals[t]), sum),
                _ => sum,
            };
            let scales = _mm512_mul_ps(scales, _mm512_set1_ps(factors[t]));
            // SAFETY: 16 numbers from `column` on are inside a strip.
            unsafe {
                let y = y[t].as_mut_ptr().add(column);
                _mm512_storeu_ps(y, _mm512_fmadd_ps(scales, sum, _mm512_loadu_ps(y)));
            }
        }
    }
}
