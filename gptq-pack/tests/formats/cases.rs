//! Random layers.

use gptq_core::{Bits, GroupSize, QuantizedMatrix};
use gptq_pack::{Dtype, Format, LayerSpec, Width};
use half::{bf16, f16};
use ndarray::Array2;
use proptest::{collection::vec, prelude::*};

#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) format: Format,
    pub(crate) q: QuantizedMatrix,
    pub(crate) spec: LayerSpec,
    pub(crate) bias: Option<Vec<f32>>,
}

fn round(dtype: Dtype, value: f32) -> f32 {
    match dtype {
        Dtype::F16 => f16::from_f32(value).to_f32(),
        Dtype::BF16 => bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

/// Sizes of which some fit every format, and some hardly any.
fn sizes() -> impl Strategy<Value = (usize, usize, i64)> {
    prop_oneof![
        (1..70usize, 1..140usize, 1..150i64),
        (1..6usize, 1..6usize, 1..8i64).prop_map(|(outs, ins, gs)| (outs * 8, ins * 32, gs * 16)),
        (1..3usize, 1..4usize).prop_map(|(outs, ins)| (outs * 256, ins * 128, 128)),
    ]
}

pub(crate) fn case() -> impl Strategy<Value = Case> {
    let format = prop::sample::select(&Format::ALL[..]);
    let bits = prop_oneof![prop::sample::select(&Bits::ALL[..]), Just(Bits::B4)];
    let scale_dtype = prop::sample::select(&[Dtype::F16, Dtype::BF16, Dtype::F32][..]);
    let settings = (format, bits, any::<bool>(), scale_dtype, prop::option::of(scale_dtype_of()));
    (settings, sizes(), prop::bool::weighted(0.2)).prop_flat_map(
        |((format, bits, sym, scale_dtype, bias), (outs, ins, size), per_channel)| {
            let size = if per_channel || size > ins as i64 { -1 } else { size };
            let group_size = GroupSize::from_file(size).unwrap();
            let groups = group_size.groups(ins);
            let stored = if format == Format::CompressedTensors { scale_dtype } else { Dtype::F16 };
            let middle = Width::from(bits).middle();
            let natural: Vec<u32> =
                (0..ins).map(|c| (c / group_size.columns(ins)) as u32).collect();
            let g_idx = prop_oneof![
                3 => Just(natural.clone()).boxed(),
                1 => Just(natural).prop_shuffle().boxed(),
            ];
            let zeros = if sym { middle..=middle } else { 0..=bits.maxq() };
            let scale = (-6e4..6e4f32).prop_map(move |v| round(stored, v));
            let bias =
                prop::option::of(vec(-1e3..1e3f32, outs)).prop_map(move |values| bias.zip(values));
            (
                vec(0..=bits.maxq(), outs * ins),
                vec(scale, outs * groups),
                vec(zeros, outs * groups),
                g_idx,
                bias,
            )
                .prop_map(move |(codes, scales, zeros, g_idx, bias)| {
                    let q = QuantizedMatrix {
                        bits,
                        codes: Array2::from_shape_vec((outs, ins), codes).unwrap(),
                        scales: Array2::from_shape_vec((outs, groups), scales).unwrap(),
                        zeros: Array2::from_shape_vec((outs, groups), zeros).unwrap(),
                        g_idx,
                    };
                    let mut spec =
                        LayerSpec { group_size, sym, scale_dtype: stored, ..LayerSpec::of(&q) };
                    spec.scattered = !spec.is_natural(&q.g_idx);
                    spec.bias = bias.as_ref().map(|(dtype, _)| *dtype);
                    let bias = bias.map(|(dtype, values)| {
                        values.into_iter().map(|v| round(dtype, v)).collect()
                    });
                    Case { format, q, spec, bias }
                })
        },
    )
}

fn scale_dtype_of() -> impl Strategy<Value = Dtype> {
    prop::sample::select(&[Dtype::F16, Dtype::BF16, Dtype::F32][..])
}
