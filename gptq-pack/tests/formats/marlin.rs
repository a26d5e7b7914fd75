//! Marlin's order of words against the construction by which its authors define it: gather every
//! run of four tiles by a permutation of 1024, then pack neighbours.

use gptq_core::{Bits, QuantizedMatrix};
use gptq_pack::{
    Dtype, Format, LayerSpec,
    marlin::{self, MarlinRef},
    names::Part,
};
use half::f16;
use ndarray::Array2;
use proptest::{collection::vec, prelude::*};

/// Which of 1024 codes, four tiles of 16 × 16 one after the other, stands where.
fn permutation(interleave: &[usize]) -> Vec<usize> {
    let mut perm = Vec::new();
    for i in 0..32 {
        let column = i / 4;
        let mut base = Vec::new();
        for block in [0, 1] {
            for row in [2 * (i % 4), 2 * (i % 4) + 1, 2 * (i % 4 + 4), 2 * (i % 4 + 4) + 1] {
                base.push(16 * row + column + 8 * block);
            }
        }
        for j in 0..4 {
            perm.extend(base.iter().map(|p| p + 256 * j));
        }
    }
    perm.chunks(interleave.len())
        .flat_map(|run| interleave.iter().map(|&i| run[i]).collect::<Vec<_>>())
        .collect()
}

fn interleave(bits: Bits) -> &'static [usize] {
    match bits {
        Bits::B4 => &[0, 2, 4, 6, 1, 3, 5, 7],
        _ => &[0, 2, 1, 3],
    }
}

/// Words of codes, out × in, by that definition.
fn defined(bits: Bits, codes: &Array2<u8>) -> Vec<u32> {
    let (outs, ins) = codes.dim();
    let perm = permutation(interleave(bits));
    let mut stream = Vec::new();
    for tile_row in 0..ins / 16 {
        // A row of tiles, each flattened: inputs change slower than outputs.
        for tile in 0..outs / 16 {
            for i in 0..256 {
                stream.push(codes[[16 * tile + i % 16, 16 * tile_row + i / 16]]);
            }
        }
    }
    let gathered: Vec<u8> =
        stream.chunks(1024).flat_map(|run| perm.iter().map(|&p| run[p])).collect();
    gathered
        .chunks(32 / bits.get() as usize)
        .map(|run| {
            let field = |(i, &code): (usize, &u8)| u32::from(code) << (i as u32 * bits.get());
            run.iter().enumerate().map(field).sum()
        })
        .collect()
}

#[test]
fn the_permutation_is_the_published_one() {
    let perm = permutation(interleave(Bits::B4));
    let first = [0, 128, 8, 136, 16, 144, 24, 152, 256, 384, 264, 392, 272, 400, 280, 408];
    assert_eq!(perm[..16], first);
    assert_eq!(perm[1016..], [871, 999, 879, 1007, 887, 1015, 895, 1023]);
    let mut sorted = perm;
    sorted.sort_unstable();
    assert!(sorted.into_iter().eq(0..1024));
}

#[test]
fn one_tile_of_known_words() {
    let four = Array2::from_shape_fn((64, 16), |(n, k)| ((3 * k + 5 * n) % 16) as u8);
    let words = marlin::repack(Bits::B4, four.view()).unwrap();
    assert_eq!(words.len(), 128);
    assert_eq!(words[..4], [0x3bb3_0880; 4]);
    assert_eq!(words[4..8], [0x9119_6ee6; 4]);
    assert_eq!(words[127], 0x8008_5dd5);

    let eight = Array2::from_shape_fn((64, 16), |(n, k)| ((7 * k + 11 * n) % 256) as u8);
    let words = marlin::repack(Bits::B8, eight.view()).unwrap();
    assert_eq!(words.len(), 256);
    assert_eq!(words[..4], [0x3f07_3800, 0x975f_9058, 0xefb7_e8b0, 0x470f_4008]);
    assert_eq!(words[255], 0x1ee6_17df);
}

#[test]
fn codes_and_shapes_beyond_the_order_are_refused() {
    let refused =
        |bits, codes: Array2<u8>| marlin::repack(bits, codes.view()).unwrap_err().to_string();
    assert!(refused(Bits::B3, Array2::zeros((64, 16))).contains("4 and 8 bits, not of 3"));
    assert!(
        refused(Bits::B4, Array2::zeros((64, 24))).contains("in_features must be a multiple of 16")
    );
    assert!(
        refused(Bits::B4, Array2::zeros((32, 16)))
            .contains("out_features must be a multiple of 64")
    );
    assert!(refused(Bits::B4, Array2::from_elem((64, 16), 16)).starts_with("code at output 0"));
}

fn layer(groups: usize) -> QuantizedMatrix {
    let (outs, ins) = (512, 256);
    QuantizedMatrix {
        bits: Bits::B4,
        codes: Array2::from_shape_fn((outs, ins), |(r, c)| ((3 * r + 5 * c) % 16) as u8),
        scales: Array2::from_shape_fn((outs, groups), |(r, g)| (1 + r + 600 * g) as f32),
        zeros: Array2::from_elem((outs, groups), 8),
        g_idx: (0..ins).map(|c| (c * groups / ins) as u32).collect(),
    }
}

/// Runs of 64 are gathered as an 8 × 8 transpose; without groups, runs of 32 by pairs.
#[test]
fn scales_are_permuted_in_both_ways() {
    let grouped: Vec<usize> = (0..8).flat_map(|i| (0..8).map(move |j| i + 8 * j)).collect();
    let single: Vec<usize> =
        (0..4).flat_map(|i| [0, 1, 8, 9, 16, 17, 24, 25].map(|j| 2 * i + j)).collect();
    for (groups, perm) in [(2, grouped), (1, single)] {
        let q = layer(groups);
        let packed = Format::Marlin.pack(&q, &LayerSpec::of(&q), None).unwrap();
        let (part, stored) = &packed[1];
        assert_eq!((*part, &stored.shape[..]), (Part::S, &[groups, 512][..]));
        let stored: Vec<f32> =
            stored.bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect();
        let flat: Vec<f32> = q.scales.t().iter().copied().collect();
        let expected: Vec<f32> =
            flat.chunks(perm.len()).flat_map(|run| perm.iter().map(|&p| run[p])).collect();
        assert_eq!(stored, expected);
    }
}

/// Words as they are stored, scales in the order of the outputs.
#[test]
fn a_layer_is_borrowed_as_it_is_stored() {
    for groups in [2, 1] {
        let q = layer(groups);
        let spec = LayerSpec { bias: Some(Dtype::F16), ..LayerSpec::of(&q) };
        let bias: Vec<f32> = (0..512).map(|r| r as f32).collect();
        let stored = Format::Marlin.pack(&q, &spec, Some(&bias)).unwrap();
        let found = MarlinRef::from_tensors(&stored, &spec).unwrap();
        assert_eq!((found.in_features(), found.out_features()), (256, 512));
        assert_eq!(found.group_columns(), 256 / groups);
        assert_eq!(found.words(), defined(Bits::B4, &q.codes));
        let scales = found.scales().iter().map(|scale| scale.to_f32());
        assert!(scales.eq(q.scales.t().iter().copied()));
        assert_eq!(found.bias(), Some(&bias[..]));
    }
}

#[test]
fn a_layer_that_is_not_of_its_spec_is_not_borrowed() {
    let q = layer(2);
    let spec = LayerSpec::of(&q);
    let stored = Format::Marlin.pack(&q, &spec, None).unwrap();
    let refused = |spec| MarlinRef::from_tensors(&stored, &spec).unwrap_err().to_string();
    assert!(refused(LayerSpec { sym: false, ..spec }).contains("no zero points"));
    assert!(refused(LayerSpec { in_features: 128, ..spec }).contains("in_features / 16"));
    assert!(refused(LayerSpec { in_features: 0, ..spec }).contains('0'));
    let without = MarlinRef::from_tensors(&stored[..1], &spec).unwrap_err().to_string();
    assert!(without.contains('s'), "{without}");
}

proptest! {
    #[test]
    fn the_closed_form_is_the_definition(
        bits in prop::sample::select(&[Bits::B4, Bits::B8][..]),
        (ins, outs, codes) in (1..5usize, 1..4usize).prop_flat_map(|(ins, outs)| {
            let (ins, outs) = (16 * ins, 64 * outs);
            (Just(ins), Just(outs), vec(any::<u8>(), ins * outs))
        }),
    ) {
        let codes = codes.into_iter().map(|code| code & bits.maxq()).collect();
        let codes = Array2::from_shape_vec((outs, ins), codes).unwrap();
        prop_assert_eq!(marlin::repack(bits, codes.view()).unwrap(), defined(bits, &codes));
    }
}
