//! Prepared linears: every width, both kinds of halves, any group and order, any number of tokens.

use gptq_core::{Backend, Bits, QuantizedMatrix, Reference};
use gptq_kernels::cuda::{CudaBackend, Half};
use gptq_pack::{
    Dtype, Format, LayerSpec, PackedBackend, PackedLinear, RawTensor, ZeroPointFormat,
    marlin::{self, MarlinRef},
    names::Part,
};
use half::{bf16, f16};
use ndarray::{Array2, s};
use proptest::{prelude::*, sample::select};

use crate::{common::values, gpu::gpu};

fn round(half: Half, v: f32) -> f32 {
    match half {
        Half::F16 => f16::from_f32(v).to_f32(),
        Half::Bf16 => bf16::from_f32(v).to_f32(),
    }
}

/// What kernels multiply with, by its definition: code minus zero, exactly, times the scale in
/// halves, rounded once. Scales are held as multiples of a power of two that makes the largest just
/// less than one.
fn weights(matrix: &QuantizedMatrix, half: Half) -> Array2<f32> {
    let largest = matrix.scales.iter().fold(0f32, |m, s| m.max(s.abs()));
    let unit = if largest > 0.0 { 2f32.powi(largest.log2().floor() as i32 + 1) } else { 1.0 };
    Array2::from_shape_fn(matrix.codes.dim(), |(r, c)| {
        let g = matrix.g_idx[c] as usize;
        let centred = f32::from(matrix.codes[(r, c)]) - f32::from(matrix.zeros[(r, g)]);
        unit * round(half, centred * round(half, matrix.scales[(r, g)] / unit))
    })
}

fn layer(
    bits: Bits,
    (outs, ins, group): (usize, usize, usize),
    (symmetric, scattered): (bool, bool),
    seed: u32,
) -> QuantizedMatrix {
    let group = group.min(ins);
    let groups = ins.div_ceil(group);
    let maxq = f32::from(bits.maxq());
    let code = |v: f32| ((v + 1.0) / 2.0 * (maxq + 0.99)) as u8;
    let scattered = scattered && ins % 7 != 0;
    let place = |c: usize| if scattered { (c * 7 + 3) % ins } else { c };
    let middle = bits.maxq() / 2 + 1;
    QuantizedMatrix {
        bits,
        codes: values(outs, ins, seed).mapv(code),
        scales: values(outs, groups, seed + 1).mapv(|v| f16::from_f32(v * 0.01).to_f32()),
        zeros: values(outs, groups, seed + 2)
            .mapv(|v| if symmetric { middle } else { code(v).max(1) }),
        g_idx: (0..ins).map(|c| (place(c) / group) as u32).collect(),
    }
}

/// Sums of f32 differ by the sizes of what was summed, by output.
fn near(got: &Array2<f32>, want: &Array2<f32>, sizes: &Array2<f32>) -> Result<(), String> {
    if got.dim() != want.dim() {
        return Err(format!("{:?}, not {:?}", got.dim(), want.dim()));
    }
    let mut all = got.indexed_iter().zip(want).zip(sizes);
    let far = all.find(|(((_, g), w), size)| {
        g.is_nan() || (*g - *w).abs() > 4e-6 * (*size + w.abs()) + 1e-7
    });
    match far {
        Some((((at, g), w), _)) => Err(format!("{g} at {at:?}, not {w}")),
        None => Ok(()),
    }
}

/// Products of f64, so that only the GPU's sums are off.
fn product(x: &Array2<f32>, w: &Array2<f32>) -> Array2<f32> {
    x.mapv(f64::from).dot(&w.mapv(f64::from).t()).mapv(|v| v as f32)
}

fn check(backend: &CudaBackend, half: Half, x: &Array2<f32>, matrices: &[QuantizedMatrix]) {
    let bias = |m: &QuantizedMatrix| values(1, m.out_features(), 99).into_raw_vec_and_offset().0;
    let prepared: Vec<_> = matrices
        .iter()
        .map(|m| {
            let packed = PackedLinear::pack(m, ZeroPointFormat::GptqV2).unwrap();
            backend.prepare(&packed.with_bias(&bias(m)).unwrap()).unwrap()
        })
        .collect();
    let on_gpu = backend.upload(x.view()).unwrap();
    let outs = backend.linears(&on_gpu, &prepared.iter().collect::<Vec<_>>()).unwrap();
    let halves = x.mapv(|v| round(half, v));
    for ((matrix, prepared), out) in matrices.iter().zip(&prepared).zip(&outs) {
        let seen = backend.download(&backend.dequantize(prepared).unwrap()).unwrap();
        let want = weights(matrix, half);
        // Layers with more holes than inputs are held as dense ones, rounded from other numbers.
        let dense = matrix.dequantize().mapv(|w| round(half, w));
        assert!(seen == want || seen == dense, "weights of {:?}", matrix.codes.dim());
        let bias = Array2::from_shape_fn((1, matrix.out_features()), |(_, c)| {
            f16::from_f32(bias(matrix)[c]).to_f32()
        });
        let want = product(&halves, &seen) + &bias;
        let sizes = product(&halves.mapv(f32::abs), &seen.mapv(f32::abs));
        near(&backend.download(out).unwrap(), &want, &sizes).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn packed_layers(
        bits in select(Bits::ALL.to_vec()),
        half in select(vec![Half::F16, Half::Bf16]),
        (outs, ins) in (1..200usize, prop_oneof![1..300usize, select(vec![64, 128, 384, 640])]),
        group in prop_oneof![8..200usize, select(vec![16, 32, 64, 128, usize::MAX])],
        tokens in select(vec![1usize, 2, 3, 8, 9, 16, 17, 40, 64, 65]),
        (symmetric, scattered) in any::<(bool, bool)>(),
        seed in any::<u16>(),
    ) {
        let matrix = layer(bits, (outs, ins, group), (symmetric, scattered), u32::from(seed));
        let x = values(tokens, ins, u32::from(seed) + 5) * 3.0;
        check(&gpu().with_half(half), half, &x, &[matrix]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// One token or two, in sizes that are cut among warps and blocks, evenly or not; groups that
    /// end within a stage, with one, or not at all.
    #[test]
    fn few_tokens(
        bits in select(Bits::ALL.to_vec()),
        half in select(vec![Half::F16, Half::Bf16]),
        (outs, ins) in (1..150usize, prop_oneof![1..3000usize, select(vec![1024, 2944, 4096])]),
        group in prop_oneof![8..400usize, select(vec![32, 64, 128, 256, usize::MAX])],
        tokens in 1..=2usize,
        (symmetric, scattered) in any::<(bool, bool)>(),
        seed in any::<u16>(),
    ) {
        let matrix = layer(bits, (outs, ins, group), (symmetric, scattered), u32::from(seed));
        let x = values(tokens, ins, u32::from(seed) + 5) * 3.0;
        check(&gpu().with_half(half), half, &x, &[matrix]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// More tokens than one block of any kernel takes, more outputs than are side by side, and columns
    /// that blocks share.
    #[test]
    fn many_tokens(
        bits in select(vec![Bits::B4, Bits::B8]),
        half in select(vec![Half::F16, Half::Bf16]),
        (outs, ins) in (1..700usize, select(vec![100, 256, 1024, 1500])),
        group in select(vec![16, 32, 64, 96, 128, 256, usize::MAX]),
        tokens in 17..200usize,
        (symmetric, scattered) in any::<(bool, bool)>(),
        seed in any::<u16>(),
    ) {
        let make = |outs, seed| layer(bits, (outs, ins, group), (symmetric, scattered), seed);
        let matrices = [make(outs, u32::from(seed)), make(outs / 3 + 1, u32::from(seed) + 9)];
        let x = values(tokens, ins, u32::from(seed) + 5) * 3.0;
        check(&gpu().with_half(half), half, &x, &matrices);
    }
}

/// Layers of one input are one launch, as many as fit; some have another width or order.
#[test]
fn together() {
    for tokens in [1, 2, 12, 50] {
        let make =
            |bits, outs, scattered, seed| layer(bits, (outs, 256, 128), (true, scattered), seed);
        let matrices = [
            make(Bits::B4, 130, false, 1),
            make(Bits::B4, 64, false, 2),
            make(Bits::B4, 1, false, 3),
            make(Bits::B4, 70, false, 4),
            make(Bits::B4, 65, false, 5),
            make(Bits::B4, 96, true, 6),
            make(Bits::B4, 33, true, 7),
            make(Bits::B8, 40, false, 8),
        ];
        check(&gpu(), Half::F16, &values(tokens, 256, 9), &matrices);
    }
}

/// Many stages in depth for few outputs: every column of tiles is cut among blocks.
#[test]
fn columns_cut_among_blocks() {
    for (bits, tokens) in [(Bits::B4, 1), (Bits::B4, 33), (Bits::B3, 2), (Bits::B8, 20)] {
        let make = |outs, seed| layer(bits, (outs, 4096, 128), (false, false), seed);
        check(&gpu(), Half::F16, &values(tokens, 4096, 2), &[make(72, 1), make(60, 3)]);
    }
}

/// The words of a Marlin file give what the same layer gives when it is repacked, bit for bit: one
/// token or two, many, and those for which weights are unpacked first.
#[test]
fn words_of_marlin() {
    for (half, outs, ins, group) in [
        (Half::F16, 256, 1152, 128),
        (Half::Bf16, 512, 256, 128),
        (Half::F16, 256, 1280, usize::MAX),
        (Half::Bf16, 256, 128, usize::MAX),
    ] {
        let backend = gpu().with_half(half);
        let matrices = [1, 5].map(|seed| layer(Bits::B4, (outs, ins, group), (true, false), seed));
        let bias = values(1, outs, 9).mapv(|v| f16::from_f32(v).to_f32());
        let (repacked, stored): (Vec<_>, Vec<_>) = matrices
            .iter()
            .map(|matrix| {
                let packed = PackedLinear::pack(matrix, ZeroPointFormat::GptqV2).unwrap();
                let packed = packed.with_bias(bias.as_slice().unwrap()).unwrap();
                let spec = LayerSpec { bias: Some(Dtype::F16), ..LayerSpec::of(matrix) };
                let stored = Format::Marlin.pack(matrix, &spec, bias.as_slice()).unwrap();
                let stored = MarlinRef::from_tensors(&stored, &spec).unwrap();
                let stored = backend.prepare_marlin(&stored).unwrap().unwrap();
                (backend.prepare(&packed).unwrap(), stored)
            })
            .unzip();
        for tokens in [1, 2, 5, 16, 40] {
            let x = backend.upload((values(tokens, ins, 3) * 2.0).view()).unwrap();
            let products = |layers: &[_]| {
                let outs = backend.linears(&x, &layers.iter().collect::<Vec<_>>()).unwrap();
                outs.iter().map(|out| backend.download(out).unwrap()).collect::<Vec<_>>()
            };
            assert_eq!(products(&stored), products(&repacked), "{tokens} tokens");
        }
        for ((stored, repacked), matrix) in stored.iter().zip(&repacked).zip(&matrices) {
            let seen = backend.download(&backend.dequantize(stored).unwrap()).unwrap();
            assert_eq!(seen, weights(matrix, half));
            assert_eq!(backend.packed_bytes(stored), backend.packed_bytes(repacked));
        }
    }
}

/// More than one launch takes, and a last token alone.
#[test]
fn very_many_tokens() {
    let matrices = [(70, 1), (33, 2)]
        .map(|(outs, seed)| layer(Bits::B4, (outs, 128, 32), (false, false), seed));
    check(&gpu(), Half::F16, &values(1025, 128, 3), &matrices);
}

/// Kernels for older GPUs run on newer ones, and say so.
#[test]
fn kernels_for_older_gpus() {
    gpu();
    let backend = CudaBackend::open_for(0, (8, 0)).unwrap();
    check(
        &backend,
        Half::F16,
        &values(40, 256, 2),
        &[layer(Bits::B4, (96, 256, 64), (true, false), 1)],
    );
    let newer = !backend.describe().contains("capability 8.0");
    assert_eq!(backend.describe().contains("kernels for 8.0"), newer, "{}", backend.describe());
    let error = CudaBackend::open_for(0, (7, 5)).unwrap_err().to_string();
    assert!(error.contains("7.5") && error.contains("8.0"), "{error}");
}

/// What kernels cannot take as it is stored is left to the caller.
#[test]
fn words_of_marlin_that_are_no_whole_stages() {
    let matrix = QuantizedMatrix {
        bits: Bits::B4,
        codes: values(64, 192, 1).mapv(|v| ((v + 1.0) * 7.99) as u8),
        scales: Array2::from_elem((64, 3), 0.5),
        zeros: Array2::from_elem((64, 3), 8),
        g_idx: (0..192).map(|c| c / 64).collect(),
    };
    // Other writers are not as strict as ours.
    let words = marlin::repack(Bits::B4, matrix.codes.view()).unwrap();
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    let halves: Vec<u8> = [f16::from_f32(0.5).to_le_bytes(); 192].concat();
    let stored = [
        (Part::B, RawTensor::new(Dtype::I32, &[12, 128], &bytes)),
        (Part::S, RawTensor::new(Dtype::F16, &[3, 64], &halves)),
    ];
    let stored = MarlinRef::from_tensors(&stored, &LayerSpec::of(&matrix)).unwrap();
    assert!(gpu().prepare_marlin(&stored).unwrap().is_none());
}

/// Scales that halves could not hold as they are.
#[test]
fn tiny_scales() {
    let mut matrix = layer(Bits::B4, (64, 128, 32), (false, false), 3);
    matrix.scales.mapv_inplace(|s| f16::from_f32(s * 1e-3).to_f32());
    check(&gpu(), Half::F16, &values(3, 128, 4), &[matrix]);
}

#[test]
fn dense_layers() {
    for half in [Half::F16, Half::Bf16] {
        for (tokens, outs, ins) in [(1, 70, 40), (5, 33, 129), (8, 9, 256), (20, 64, 64)] {
            let backend = gpu().with_half(half);
            let (x, w) = (values(tokens, ins, 1), values(outs, ins, 2));
            let bias = values(1, outs, 3);
            let prepared = backend.prepare_dense(w.view(), bias.as_slice()).unwrap();
            let x_gpu = backend.upload(x.view()).unwrap();
            let got = backend.download(&backend.packed_linear(&x_gpu, &prepared).unwrap()).unwrap();
            let (x, w) = (x.mapv(|v| round(half, v)), w.mapv(|v| round(half, v)));
            let sizes = product(&x.mapv(f32::abs), &w.mapv(f32::abs));
            near(&got, &(product(&x, &w) + &bias), &sizes).unwrap();
            let seen = backend.download(&backend.dequantize(&prepared).unwrap()).unwrap();
            assert_eq!(seen, w);
        }
    }
}

/// f32 throughout, packed or not.
#[test]
fn exact_products() {
    let backend = gpu().exact();
    let matrix = layer(Bits::B3, (50, 96, 32), (false, true), 5);
    let packed = PackedLinear::pack(&matrix, ZeroPointFormat::GptqV2).unwrap();
    let x = values(7, 96, 6) * 4.0;
    let want = Reference.linears(&x, &[&Reference.prepare(&packed).unwrap()]).unwrap();
    let prepared = backend.prepare(&packed).unwrap();
    let got = backend.packed_linear(&backend.upload(x.view()).unwrap(), &prepared).unwrap();
    let sizes = product(&x.mapv(f32::abs), &matrix.dequantize().mapv(f32::abs));
    near(&backend.download(&got).unwrap(), &want[0], &sizes).unwrap();
    let seen = backend.download(&backend.dequantize(&prepared).unwrap()).unwrap();
    assert_eq!(seen, packed.unpack().dequantize());
    assert_eq!(seen.slice(s![.., 0]).len(), 50);
}
