//! What is packed is what is unpacked: through words, and through the bytes of a file.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic like tests")]

use gptq_core::{Bits, GroupSize, QuantizedMatrix};
use gptq_pack::{
    LinearTensors, PackSpec, PackedLinear, PackedLinearRef, RawTensor, ZeroPointFormat, names::Part,
};
use half::f16;
use ndarray::Array2;
use proptest::{collection::vec, prelude::*};

#[derive(Clone, Debug)]
struct Case {
    q: QuantizedMatrix,
    format: ZeroPointFormat,
    group_size: GroupSize,
    bias: Option<Vec<f32>>,
}

fn half_scale() -> impl Strategy<Value = f32> {
    (-60000.0..60000.0f32).prop_map(|v| f16::from_f32(v).to_f32())
}

fn case() -> impl Strategy<Value = Case> {
    let format = prop_oneof![Just(ZeroPointFormat::Gptq), Just(ZeroPointFormat::GptqV2)];
    let bits = prop::sample::select(&Bits::ALL[..]);
    (bits, 1..70usize, 1..140usize, 1..150i64, format).prop_flat_map(
        |(bits, outs, ins, size, format)| {
            let size = if size > ins as i64 { -1 } else { size };
            let group_size = GroupSize::from_file(size).unwrap();
            let groups = group_size.groups(ins);
            let smallest = u8::from(format == ZeroPointFormat::Gptq);
            let natural: Vec<u32> =
                (0..ins).map(|c| (c / group_size.columns(ins)) as u32).collect();
            let g_idx = prop_oneof![
                Just(natural.clone()).boxed(),
                Just(natural).prop_shuffle().boxed(),
                vec(0..groups as u32, ins).boxed(),
            ];
            (
                vec(0..=bits.maxq(), outs * ins),
                vec(half_scale(), outs * groups),
                vec(smallest..=bits.maxq(), outs * groups),
                g_idx,
                prop::option::of(vec(half_scale(), outs)),
            )
                .prop_map(move |(codes, scales, zeros, g_idx, bias)| Case {
                    q: QuantizedMatrix {
                        bits,
                        codes: Array2::from_shape_vec((outs, ins), codes).unwrap(),
                        scales: Array2::from_shape_vec((outs, groups), scales).unwrap(),
                        zeros: Array2::from_shape_vec((outs, groups), zeros).unwrap(),
                        g_idx,
                    },
                    format,
                    group_size,
                    bias,
                })
        },
    )
}

/// As a reader of files would collect them.
fn collect<'a>(tensors: Vec<(Part, RawTensor<'a>)>) -> LinearTensors<'a> {
    let get = |part| tensors.iter().find(|(p, _)| *p == part).map(|(_, t)| t.clone());
    LinearTensors {
        qweight: get(Part::QWeight).unwrap(),
        qzeros: get(Part::QZeros).unwrap(),
        scales: get(Part::Scales).unwrap(),
        g_idx: get(Part::GIdx),
        bias: get(Part::Bias),
    }
}

fn spec(case: &Case, bits: Option<Bits>) -> PackSpec {
    PackSpec {
        in_features: case.q.in_features(),
        out_features: case.q.out_features(),
        bits,
        group_size: case.group_size,
        zero_format: case.format,
    }
}

proptest! {
    #[test]
    fn unpacking_undoes_packing(case in case()) {
        let packed = PackedLinear::pack(&case.q, case.format).unwrap();
        prop_assert_eq!(packed.ambiguous_zeros(), 0);
        prop_assert_eq!(packed.unpack(), case.q);
    }

    #[test]
    fn reading_undoes_writing(case in case()) {
        let mut packed = PackedLinear::pack(&case.q, case.format).unwrap();
        if let Some(bias) = &case.bias {
            packed = packed.with_bias(bias).unwrap();
        }
        let tensors = collect(packed.tensors());
        let read = PackedLinearRef::from_tensors(&tensors, &spec(&case, Some(case.q.bits))).unwrap();
        prop_assert_eq!(read.bias(), case.bias.as_deref());
        prop_assert_eq!(&read, &packed);
        prop_assert_eq!(read.into_owned().unpack(), case.q);
    }

    #[test]
    fn stated_and_derived_bits_agree(case in case()) {
        prop_assume!(case.q.in_features() >= 32 || case.q.out_features() >= 32);
        let packed = PackedLinear::pack(&case.q, case.format).unwrap();
        let read = PackedLinearRef::from_tensors(&collect(packed.tensors()), &spec(&case, None));
        prop_assert_eq!(read.unwrap().bits(), case.q.bits);
    }

    #[test]
    fn without_g_idx_groups_are_natural(case in case()) {
        let packed = PackedLinear::pack(&case.q, case.format).unwrap();
        let mut tensors = collect(packed.tensors());
        tensors.g_idx = None;
        let read = PackedLinearRef::from_tensors(&tensors, &spec(&case, Some(case.q.bits))).unwrap();
        prop_assert!(read.has_trivial_g_idx());
        let size = case.group_size.columns(case.q.in_features());
        prop_assert!(read.g_idx().iter().enumerate().all(|(c, &g)| g as usize == c / size));
        prop_assert_eq!(packed.has_trivial_g_idx(), packed.g_idx() == read.g_idx());
    }

    #[test]
    fn column_major_matrices_pack_alike(case in case()) {
        let mut q = case.q.clone();
        q.codes = Array2::from_shape_vec(q.codes.t().dim(), q.codes.t().iter().copied().collect())
            .unwrap()
            .reversed_axes();
        prop_assert_eq!(
            PackedLinear::pack(&q, case.format).unwrap(),
            PackedLinear::pack(&case.q, case.format).unwrap()
        );
    }
}
