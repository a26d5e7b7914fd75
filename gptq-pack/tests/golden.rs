//! Words, shapes and names worked out by hand from the format, and as GPTQModel and AutoGPTQ write
//! them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use gptq_core::{Bits, GroupSize, QuantizedMatrix};
use gptq_pack::{PackedLinear, ZeroPointFormat, lane, names};
use ndarray::Array2;

fn packed(bits: Bits, codes: &[u8]) -> Vec<u32> {
    let mut words = vec![0; lane::words(bits, codes.len())];
    lane::pack(bits, codes.iter().copied(), &mut words);
    words
}

fn zeros(format: ZeroPointFormat, bits: Bits, zeros: &[u8]) -> Vec<u32> {
    let mut words = vec![0; lane::words(bits, zeros.len())];
    format.store(bits, zeros, &mut words);
    words
}

fn only(code: usize) -> [u8; 32] {
    let mut codes = [0; 32];
    codes[code] = 7;
    codes
}

#[test]
fn three_bit_lanes() {
    let rising: [u8; 32] = std::array::from_fn(|i| (i % 8) as u8);
    assert_eq!(packed(Bits::B3, &rising), [0x88fa_c688, 0xc688_fac6, 0xfac6_88fa]);
    let falling: [u8; 32] = std::array::from_fn(|i| 7 - (5 * i % 8) as u8);
    assert_eq!(packed(Bits::B3, &falling), [0x5787_3157, 0x3157_8731, 0x8731_5787]);
    assert_eq!(packed(Bits::B3, &only(10)), [0xc000_0000, 0x0000_0001, 0]);
    assert_eq!(packed(Bits::B3, &only(21)), [0, 0x8000_0000, 0x0000_0003]);
}

/// The three words written out, as the packers of the field do, instead of by the one law.
#[test]
fn three_bit_lanes_equal_their_closed_form() {
    let mut state = 1u32;
    for _ in 0..1000 {
        let codes: [u8; 32] = std::array::from_fn(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 29) as u8
        });
        let c = |i: usize| u32::from(codes[i]);
        let run = |first: usize, shift: usize| {
            (0..10).fold(0, |word, j| word | c(first + j) << (shift + 3 * j))
        };
        let closed = [
            run(0, 0) | c(10) << 30,
            c(10) >> 2 | run(11, 1) | c(21) << 31,
            c(21) >> 1 | run(22, 2),
        ];
        assert_eq!(packed(Bits::B3, &codes), closed);
    }
}

#[test]
fn widths_that_divide_a_word() {
    let two: [u8; 16] = std::array::from_fn(|i| (i % 4) as u8);
    assert_eq!(packed(Bits::B2, &two), [0xe4e4_e4e4]);
    let four: [u8; 16] = std::array::from_fn(|i| i as u8);
    assert_eq!(packed(Bits::B4, &four), [0x7654_3210, 0xfedc_ba98]);
    assert_eq!(packed(Bits::B8, &[1, 2, 254, 255]), [0xfffe_0201]);
}

#[test]
fn symmetric_zero_points() {
    use ZeroPointFormat::{Gptq, GptqV2};
    for (bits, v2, v1) in [
        (Bits::B2, vec![0xaaaa_aaaa; 2], vec![0x5555_5555; 2]),
        (
            Bits::B3,
            vec![0x2492_4924, 0x4924_9249, 0x9249_2492],
            vec![0xdb6d_b6db, 0xb6db_6db6, 0x6db6_db6d],
        ),
        (Bits::B4, vec![0x8888_8888; 4], vec![0x7777_7777; 4]),
        (Bits::B8, vec![0x8080_8080; 8], vec![0x7f7f_7f7f; 8]),
    ] {
        let middle = [1 << (bits.get() - 1); 32];
        assert_eq!(zeros(GptqV2, bits, &middle), v2, "{bits:?}");
        assert_eq!(zeros(Gptq, bits, &middle), v1, "{bits:?}");
    }
    assert_eq!(zeros(GptqV2, Bits::B4, &[8; 8])[0] as i32, -2_004_318_072);
    assert_eq!(zeros(Gptq, Bits::B4, &[8; 8])[0] as i32, 2_004_318_071);
}

/// GPTQModel subtracts from whole words, so zero points of 0 borrow from their neighbours; only
/// adding to whole words gives them back.
#[test]
fn zero_points_of_zero_borrow_in_v1() {
    let asymmetric = [0, 8, 15, 1, 8, 8, 0, 3];
    assert_eq!(zeros(ZeroPointFormat::GptqV2, Bits::B4, &asymmetric), [0x3088_1f80]);
    assert_eq!(zeros(ZeroPointFormat::Gptq, Bits::B4, &asymmetric), [0x1f77_0e6f]);

    let load = |word| {
        let mut zeros = [0; 8];
        ZeroPointFormat::Gptq.load(Bits::B4, &[word], &mut zeros);
        zeros
    };
    assert_eq!(load(0x1f77_0e6f), asymmetric);
    // The same zeros by a writer that subtracts field by field: another dialect, read wrongly.
    assert_eq!(load(0x2f77_0e7f), [0, 9, 15, 1, 8, 8, 0, 4]);
    // Field by field, a reader would get GPTQModel's file wrong.
    let by_field: [u8; 8] =
        std::array::from_fn(|i| (lane::code_at(Bits::B4, &[0x1f77_0e6f], i) + 1) & 15);
    assert_eq!(by_field, [0, 7, 15, 1, 8, 8, 0, 2]);
    assert_eq!(ZeroPointFormat::Gptq.ambiguous(Bits::B4, &[0x1f77_0e6f], 8), 2);
}

#[test]
fn shapes_of_a_llama_up_projection() {
    let (ins, outs) = (4096, 11008);
    for (bits, rows, columns) in [(Bits::B3, 384, 1032), (Bits::B4, 512, 1376)] {
        let q = QuantizedMatrix {
            bits,
            codes: Array2::from_elem((outs, ins), 1),
            scales: Array2::from_elem((outs, 32), 1.0),
            zeros: Array2::from_elem((outs, 32), 2),
            g_idx: (0..ins as u32).map(|c| c / 128).collect(),
        };
        let packed = PackedLinear::pack(&q, ZeroPointFormat::Gptq).unwrap();
        let shapes: Vec<_> = packed.tensors().into_iter().map(|(_, t)| t.shape).collect();
        assert_eq!(shapes, [vec![rows, outs], vec![32, columns], vec![32, outs], vec![ins]]);
        assert_eq!(packed.contiguous_group_size(), Some(128));
        assert_eq!(packed.nbytes(), 4 * (rows * outs + 32 * columns + ins) + 2 * 32 * outs);
    }
}

#[test]
fn autogptq_file_names() {
    let whole_rows = names::autogptq_basename(Bits::B4, GroupSize::PerChannel);
    assert_eq!(whole_rows, "gptq_model-4bit--1g");
    let groups = names::autogptq_basename(Bits::B3, GroupSize::from_file(128).unwrap());
    assert_eq!(groups, "gptq_model-3bit-128g");
}
