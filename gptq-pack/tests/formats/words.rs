//! Words worked out by hand from the definitions of the formats.

use gptq_core::{Bits, GroupSize, QuantizedMatrix};
use gptq_pack::{Dtype, Format, LayerSpec, RawTensor, Width, names::Part};
use ndarray::{Array2, array};

fn per_channel(bits: Bits, codes: Array2<u8>) -> QuantizedMatrix {
    let (outs, ins) = codes.dim();
    QuantizedMatrix {
        bits,
        codes,
        scales: Array2::ones((outs, 1)),
        zeros: Array2::from_elem((outs, 1), Width::from(bits).middle()),
        g_idx: vec![0; ins],
    }
}

fn words_of(tensors: &[(Part, RawTensor<'_>)], part: Part) -> Vec<u32> {
    let tensor = tensors.iter().find(|(p, _)| *p == part).unwrap();
    tensor.1.bytes.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect()
}

fn i32s(shape: &[usize], words: &[u32]) -> RawTensor<'static> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    RawTensor { dtype: Dtype::I32, shape: shape.to_vec(), bytes: bytes.into() }
}

fn f32s(shape: &[usize], value: f32) -> RawTensor<'static> {
    let bytes = value.to_le_bytes().repeat(shape.iter().product());
    RawTensor { dtype: Dtype::F32, shape: shape.to_vec(), bytes: bytes.into() }
}

#[test]
fn awq_interleaves_eight_outputs() {
    // One input, outputs 0 to 7; zero points the other way round.
    let mut q = per_channel(Bits::B4, Array2::from_shape_fn((8, 1), |(r, _)| r as u8));
    q.zeros = Array2::from_shape_fn((8, 1), |(r, _)| 7 - r as u8);
    let packed = Format::Awq.pack(&q, &LayerSpec::of(&q), None).unwrap();
    assert_eq!(words_of(&packed, Part::QWeight), [0x7531_6420]);
    assert_eq!(words_of(&packed, Part::QZeros), [0x0246_1357]);
}

/// Codes and zero points as compressed-tensors names them, less `2^(b-1)`.
fn signed(bits: Bits, codes: &[i16]) -> Vec<u32> {
    let middle = i16::from(Width::from(bits).middle());
    let codes: Vec<u8> = codes.iter().map(|code| (code + middle) as u8).collect();
    let q = per_channel(bits, Array2::from_shape_vec((1, codes.len()), codes).unwrap());
    let spec = LayerSpec::of(&q);
    words_of(&Format::CompressedTensors.pack(&q, &spec, None).unwrap(), Part::WeightPacked)
}

#[test]
fn compressed_tensors_packs_rows_of_signed_codes() {
    assert_eq!(signed(Bits::B4, &[-8, -7, -6, -5, -4, -3, -2, -1]), [0x7654_3210]);
    assert_eq!(signed(Bits::B4, &[0, 1, 2, 3, 4, 5, 6, 7]), [0xfedc_ba98]);
    assert_eq!(signed(Bits::B8, &[-128, -1, 0, 127]), [0xff80_7f00]);
    let rising: Vec<i16> = (0..32).map(|i| i % 8 - 4).collect();
    assert_eq!(signed(Bits::B3, &rising), [0x88fa_c688, 0xc688_fac6, 0xfac6_88fa]);
    // 40 codes of three bits end in the fourth word.
    assert_eq!(signed(Bits::B3, &[-4; 40]), [0; 4]);
}

#[test]
fn compressed_tensors_packs_zero_points_along_the_outputs() {
    let mut q = per_channel(Bits::B4, Array2::zeros((9, 64)));
    q.scales = Array2::ones((9, 2));
    q.zeros = Array2::from_shape_fn((9, 2), |(r, g)| (r + 7 * g) as u8);
    q.g_idx = (0..64).map(|i| i / 32).collect();
    let spec = LayerSpec::of(&q);
    let packed = Format::CompressedTensors.pack(&q, &spec, None).unwrap();
    // Word 0 of both groups, then word 1: outputs 0 to 7, then output 8.
    let expected = [0x7654_3210, 0xedcb_a987, 0x0000_0008, 0x0000_000f];
    assert_eq!(words_of(&packed, Part::WeightZeroPoint), expected);
    let shape = packed.iter().find(|(part, _)| *part == Part::WeightShape).unwrap();
    assert_eq!(shape.1.dtype, Dtype::I64);
    assert_eq!(*shape.1.bytes, [9i64.to_le_bytes(), 64i64.to_le_bytes()].concat());
}

/// A width, 32 codes, and their words.
type Lane = (u32, fn(u8) -> u8, &'static [u32]);

/// One lane of every width: planes of low bits first.
#[test]
fn planes() {
    let lanes: [Lane; 7] = [
        (2, |i| i % 4, &[0xe4e4_e4e4; 2]),
        (3, |i| i % 8, &[0xe4e4_e4e4, 0xe4e4_e4e4, 0xf0f0_f0f0]),
        (4, |i| i % 16, &[0x7654_3210, 0xfedc_ba98, 0x7654_3210, 0xfedc_ba98]),
        (5, |i| i, &[0x7654_3210, 0xfedc_ba98, 0x7654_3210, 0xfedc_ba98, 0xffff_0000]),
        (
            6,
            |i| 2 * i + 1,
            &[0xfdb9_7531, 0xfdb9_7531, 0xfdb9_7531, 0xfdb9_7531, 0x5555_0000, 0xffff_aaaa],
        ),
        (
            7,
            |i| 4 * i + 3,
            &[
                0xfb73_fb73,
                0xfb73_fb73,
                0xfb73_fb73,
                0xfb73_fb73,
                0xffaa_5500,
                0xffaa_5500,
                0xffff_0000,
            ],
        ),
        (
            8,
            |i| i,
            &[
                0x0302_0100,
                0x0706_0504,
                0x0b0a_0908,
                0x0f0e_0d0c,
                0x1312_1110,
                0x1716_1514,
                0x1b1a_1918,
                0x1f1e_1d1c,
            ],
        ),
    ];
    for (bits, code, lane) in lanes {
        // 32 inputs and 32 outputs, every output alike; the zero points are the same lane.
        let width = Width::try_from(bits).unwrap();
        let qweight: Vec<u32> = lane.iter().flat_map(|&word| [word; 32]).collect();
        let tensors = [
            (Part::QWeight, i32s(&[lane.len(), 32], &qweight)),
            (Part::QZeros, i32s(&[1, lane.len()], lane)),
            (Part::Scales, f32s(&[1, 32], 0.1)),
        ];
        let spec = LayerSpec {
            in_features: 32,
            out_features: 32,
            width,
            group_size: GroupSize::PerChannel,
            sym: false,
            scattered: false,
            scale_dtype: Dtype::F16,
            bias: None,
        };
        assert_eq!(Format::GptqP.dims(&tensors, width), Ok((32, 32)));
        let (q, _) = Format::GptqP.unpack(&tensors, &spec).unwrap();
        assert_eq!(q.bits, width.bits());
        let lane: Vec<u8> = (0..32).map(|i| code(i) + width.offset()).collect();
        assert!(q.codes.outer_iter().all(|row| row.iter().eq(&lane)), "{bits} bits");
        assert_eq!(q.zeros.column(0).to_vec(), lane, "{bits} bits");
        assert_eq!(q.scales[[0, 0]], 0.1, "scales are not rounded");
    }
}

/// Codes of 5, 6 and 7 bits become 8-bit ones that stand for the same weights, and a symmetric
/// layer stays one.
#[test]
fn odd_widths_keep_their_middle() {
    for bits in 5..8 {
        let width = Width::try_from(bits).unwrap();
        let codes: Vec<u8> = [0, 1, width.middle(), width.maxq()].repeat(8);
        let mut row = vec![0u32; bits as usize];
        for (n, &code) in codes.iter().enumerate() {
            for bit in 0..bits as usize {
                let place = n * bits as usize + bit;
                row[place / 32] |= u32::from(code >> bit & 1) << (place % 32);
            }
        }
        let shape: Vec<u8> = [1i64, 32].iter().flat_map(|dim| dim.to_le_bytes()).collect();
        let shape = RawTensor { dtype: Dtype::I64, shape: vec![2], bytes: shape.into() };
        let tensors = [
            (Part::WeightPacked, i32s(&[1, row.len()], &row)),
            (Part::WeightScale, f32s(&[1, 1], 0.5)),
            (Part::WeightShape, shape),
        ];
        let spec = LayerSpec {
            in_features: 32,
            out_features: 1,
            width,
            group_size: GroupSize::PerChannel,
            sym: true,
            scattered: false,
            scale_dtype: Dtype::F16,
            bias: None,
        };
        let (q, _) = Format::CompressedTensors.unpack(&tensors, &spec).unwrap();
        assert_eq!((q.bits, &q.zeros), (Bits::B8, &array![[128]]));
        let weights = q.dequantize();
        let expected = codes.iter().map(|&c| 0.5 * (f32::from(c) - f32::from(width.middle())));
        assert!(weights.iter().copied().eq(expected), "{bits} bits");
    }
}
