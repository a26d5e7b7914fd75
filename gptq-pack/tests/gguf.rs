//! GGUF blocks: what fits moves over bit for bit, what does not is accounted for, and rounding is
//! the reference's.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic like tests")]

use gptq_core::{Bits, QuantizedMatrix};
use gptq_pack::{
    Error,
    gguf::{self, BLOCK, BlockType, Loss},
};
use half::f16;
use ndarray::Array2;
use proptest::{collection::vec, prelude::*};

/// Rows of blocks; `sym` puts every zero point in the middle.
fn matrix(bits: &'static [Bits], sym: bool) -> impl Strategy<Value = QuantizedMatrix> {
    let scale = (-250.0..250.0f32).prop_map(|v| f16::from_f32(v).to_f32());
    (prop::sample::select(bits), 1..4usize, 1..5usize, 1..4usize).prop_flat_map(
        move |(bits, outs, blocks, blocks_per_group)| {
            let (ins, groups) = (blocks * BLOCK, blocks.div_ceil(blocks_per_group));
            let middle = 1 << (bits.get() - 1);
            let zero = if sym { middle..=middle } else { 0..=bits.maxq() };
            (
                vec(0..=bits.maxq(), outs * ins),
                vec(scale.clone(), outs * groups),
                vec(zero, outs * groups),
            )
                .prop_map(move |(codes, scales, zeros)| QuantizedMatrix {
                    bits,
                    codes: Array2::from_shape_vec((outs, ins), codes).unwrap(),
                    scales: Array2::from_shape_vec((outs, groups), scales).unwrap(),
                    zeros: Array2::from_shape_vec((outs, groups), zeros).unwrap(),
                    g_idx: (0..ins).map(|c| (c / (BLOCK * blocks_per_group)) as u32).collect(),
                })
        },
    )
}

fn exact(q: &QuantizedMatrix, ty: BlockType) {
    let bytes = gguf::encode(q, ty).unwrap();
    let decoded = gguf::decode(&bytes, ty, q.out_features(), q.in_features()).unwrap();
    assert_eq!(decoded, q.dequantize(), "{ty}");
    assert!(gguf::is_exact(q, ty).unwrap());
    let weights = q.codes.len() as u64;
    let none = Loss { weights, ..Loss::default() };
    assert_eq!(Loss::of_blocks(q, &bytes, ty).unwrap(), none);
}

const UP_TO_4: &[Bits] = &[Bits::B2, Bits::B3, Bits::B4];

proptest! {
    #[test]
    fn symmetric_layers_of_up_to_4_bits_are_q4_0(q in matrix(UP_TO_4, true)) {
        for ty in BlockType::ALL {
            exact(&q, ty);
        }
    }

    #[test]
    fn asymmetric_layers_of_up_to_4_bits_are_q5_0(q in matrix(UP_TO_4, false)) {
        exact(&q, BlockType::Q5_0);
        exact(&q, BlockType::Q8_0);
    }

    #[test]
    fn symmetric_layers_of_8_bits_are_q8_0(q in matrix(&[Bits::B8], true)) {
        exact(&q, BlockType::Q8_0);
    }

    /// The same by a plain count, whatever was encoded.
    #[test]
    fn losses_are_what_decoding_shows(q in matrix(&Bits::ALL, false)) {
        for ty in BlockType::ALL {
            let bytes = gguf::encode(&q, ty).unwrap();
            let got = gguf::decode(&bytes, ty, q.out_features(), q.in_features()).unwrap();
            let want = q.dequantize();
            let errors: Vec<f64> =
                got.iter().zip(&want).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).collect();
            let typical = want.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>().sqrt();
            let loss = Loss::of_blocks(&q, &bytes, ty).unwrap();
            prop_assert_eq!(loss.inexact, errors.iter().filter(|&&e| e > 0.0).count() as u64);
            prop_assert_eq!(loss.is_exact(), gguf::is_exact(&q, ty).unwrap());
            if !loss.is_exact() {
                let rms = errors.iter().map(|e| e * e).sum::<f64>().sqrt() / typical;
                prop_assert!((loss.rms / rms - 1.0).abs() < 1e-9, "{} {}", loss.rms, rms);
                let count = errors.len() as f64;
                let max = errors.iter().fold(0f64, |a, &b| a.max(b)) * count.sqrt() / typical;
                prop_assert!((loss.max / max - 1.0).abs() < 1e-9, "{} {}", loss.max, max);
            }
        }
    }

    /// Only `m` is rounded, and that by half a unit of 11 bits of a number of at most 15 scales.
    #[test]
    fn q4_1_loses_only_the_end_of_its_minimum(q in matrix(UP_TO_4, false)) {
        let bytes = gguf::encode(&q, BlockType::Q4_1).unwrap();
        let loss = Loss::of_blocks(&q, &bytes, BlockType::Q4_1).unwrap();
        // Below the smallest normal half, units do not shrink any more.
        prop_assume!(q.scales.iter().all(|s| s.abs() > 6.2e-5));
        prop_assert!(loss.max_steps <= 15.0 / 2048.0, "{}", loss.max_steps);
    }

    #[test]
    fn rounded_rows_are_within_a_step(w in vec(-8.0..8.0f32, 2 * BLOCK)) {
        let w = Array2::from_shape_vec((2, BLOCK), w).unwrap();
        for (ty, steps) in
            [(BlockType::Q4_0, 8.0), (BlockType::Q4_1, 7.5), (BlockType::Q5_0, 16.0), (BlockType::Q8_0, 127.0)]
        {
            let bytes = gguf::encode_rows(w.view(), ty).unwrap();
            let got = gguf::decode(&bytes, ty, 2, BLOCK).unwrap();
            for (got, want) in got.outer_iter().zip(w.outer_iter()) {
                let top = want.fold(0f32, |a, b| a.max(b.abs()));
                // Signed grids end one step before the largest magnitude on its other side.
                for (got, want) in got.iter().zip(want) {
                    prop_assert!((got - want).abs() <= 1.01 * top / steps, "{ty}: {got} {want}");
                }
            }
        }
    }
}

/// Written by `gguf.quants.quantize` (gguf 0.19.0) from the weights below.
const REFERENCE: [(BlockType, &str); 4] = [
    (
        BlockType::Q4_0,
        "ca33394ea93a09eddb5f507ac0d158ddc6c2b83319b0dd4fc3c90f5fb6ea59469f63be1e\
         0080888888888888888888888888888888888e336c2f21919bf947d089164b32fde0985f",
    ),
    (
        BlockType::Q4_1,
        "b733cabf394ea93a09eddb5f507ac0d158edc6c21634b8bf18b0cc3eb3b90f5eb6da48458f63ad1d\
         000000000000000000000000000000000000000001348ebf6c2f21818af847c079163b32fdd0874e",
    ),
    (
        BlockType::Q5_0,
        "ca2fff3264ec518b326313b9a6bea0e59192a0ba7d83\
         b82fedd6365322709a7d86720fbd6cd5919b1fc65c3b\
         0080ffffffff00000000000000000000000000000000\
         8e2f33d5b871c94f532226f18f91033c7765fbc0209e",
    ),
    (
        BlockType::Q8_0,
        "da230b5813181648306d81268794fd50e69da9c318b385584fd7d4f3444bd3573a3f\
         c82310834e68b1117d67e12409d97ab061588e3448ba3d3881d53264c9c80ae12895\
         00000000000000000000000000000000000000000000000000000000000000000000\
         9d23477a968d2c0bf78515e035a95681fd6ee49fa50c0f79c34aff98baad7d620fcb",
    ),
];

/// Two rows of two blocks, the third of them zero.
fn reference_weights() -> Array2<f32> {
    let mut state = 12345u64;
    let mut weight = move || {
        state = (state * 1_103_515_245 + 12345) % (1 << 31);
        ((state >> 8) % 2001) as f32 / 512.0 - 1000.0 / 512.0
    };
    let mut w = Array2::from_shape_simple_fn((2, 2 * BLOCK), &mut weight);
    w.slice_mut(ndarray::s![1, ..BLOCK]).fill(0.0);
    w
}

#[test]
fn rounding_is_the_reference_quantizers() {
    for (ty, want) in REFERENCE {
        let bytes = gguf::encode_rows(reference_weights().view(), ty).unwrap();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, want, "{ty}");
    }
}

fn sample(in_features: usize) -> QuantizedMatrix {
    QuantizedMatrix {
        bits: Bits::B4,
        codes: Array2::from_shape_fn((2, in_features), |(r, c)| ((3 * r + c) % 16) as u8),
        scales: Array2::from_elem((2, 1), 0.25),
        zeros: Array2::from_elem((2, 1), 8),
        g_idx: vec![0; in_features],
    }
}

/// Codes 3 to 9 about zero point 7: `−7 · d` has no half of its own, `−8 · d` has, and with 8 for
/// zero the integers are 4 to 10.
#[test]
fn q4_1_takes_the_minimum_that_half_precision_holds() {
    let mut q = sample(BLOCK);
    q.codes.mapv_inplace(|code| 3 + code % 7);
    q.zeros.fill(7);
    // 1 + 2⁻¹⁰: all eleven bits are used.
    q.scales.fill(f32::from_bits(0x3F80_2000));
    assert!(gguf::is_exact(&q, BlockType::Q4_1).unwrap());
    let bytes = gguf::encode(&q, BlockType::Q4_1).unwrap();
    assert_eq!(f16::from_le_bytes([bytes[2], bytes[3]]).to_f32(), -8.0 * q.scales[[0, 0]]);
}

#[test]
fn layers_that_do_not_fit_are_rounded_and_say_so() {
    let mut q = sample(BLOCK);
    q.zeros.fill(0);
    let bytes = gguf::encode(&q, BlockType::Q4_0).unwrap();
    let loss = Loss::of_blocks(&q, &bytes, BlockType::Q4_0).unwrap();
    assert!(!loss.is_exact() && !gguf::is_exact(&q, BlockType::Q4_0).unwrap());
    assert_eq!(bytes, gguf::encode_rows(q.dequantize().view(), BlockType::Q4_0).unwrap());
    assert!(loss.max_steps > 0.4 && loss.max_steps <= 1.9, "{loss:?}");
}

#[test]
fn scales_finer_than_half_precision_are_a_loss() {
    let mut q = sample(BLOCK);
    q.scales.fill(0.1);
    assert!(!gguf::is_exact(&q, BlockType::Q4_0).unwrap());
    let bytes = gguf::encode(&q, BlockType::Q4_0).unwrap();
    let loss = Loss::of_blocks(&q, &bytes, BlockType::Q4_0).unwrap();
    assert!(loss.rms < 1.0 / 2048.0, "{loss:?}");
}

#[test]
fn what_no_block_can_be_made_of_is_refused() {
    let width = Error::BlockWidth { in_features: 40 };
    assert_eq!(gguf::encode(&sample(40), BlockType::Q4_0), Err(width.clone()));
    assert_eq!(gguf::encode_rows(Array2::zeros((1, 40)).view(), BlockType::Q8_0), Err(width));

    let mut q = sample(2 * BLOCK);
    q.scales = Array2::from_elem((2, 3), 0.25);
    q.zeros = Array2::from_elem((2, 3), 8);
    q.g_idx = (0..64).map(|c| c / 24).collect();
    let spans = Error::BlockGroups { first: 0, column: 24, groups: [0, 1] };
    assert_eq!(gguf::is_exact(&q, BlockType::Q8_0), Err(spans.clone()));
    for word in ["inputs 0 and 24", "groups 0 and 1", "multiple of 32", "desc_act", "f16"] {
        assert!(spans.to_string().contains(word), "{word}: {spans}");
    }

    let mut q = sample(BLOCK);
    q.scales.fill(60000.0);
    assert!(gguf::is_exact(&q, BlockType::Q4_0).unwrap());
    assert!(!gguf::is_exact(&q, BlockType::Q4_1).unwrap(), "m is beyond half precision");
    q.scales[[1, 0]] = 1e6;
    let overflow = gguf::encode(&q, BlockType::Q4_0);
    assert!(matches!(overflow, Err(Error::HalfOverflow { row: 1, column: 0, .. })), "{overflow:?}");
    let mut w = Array2::zeros((1, 2 * BLOCK));
    w[[0, 40]] = f32::NAN;
    for ty in BlockType::ALL {
        let nan = gguf::encode_rows(w.view(), ty);
        assert!(matches!(nan, Err(Error::NotFinite { row: 0, column: 32, .. })), "{ty}: {nan:?}");
    }

    let short = gguf::decode(&[0; 17], BlockType::Q4_0, 1, 32);
    assert!(matches!(short, Err(Error::BlockBytes { found: 17, .. })), "{short:?}");
    let long = gguf::decode(&[], BlockType::Q8_0, usize::MAX, 64);
    assert!(matches!(long, Err(Error::BlockBytes { .. })), "{long:?}");
}
