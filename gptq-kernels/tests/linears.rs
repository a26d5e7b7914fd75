//! Prepared linears on every instruction set, at every precision, against their definitions.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failing test panics")]

mod common;

use common::{close, values};
use gptq_core::{Backend, Bits, QuantizedMatrix, Reference};
use gptq_kernels::{CpuBackend, Isa, Precision};
use gptq_pack::{PackedBackend, PackedLinear, ZeroPointFormat};
use ndarray::{Array1, Array2, s};
use proptest::{prelude::*, sample::select};

/// Inputs that share a scale where activations are bytes, unless a group ends before.
const BLOCK: usize = 128;

#[derive(Clone, Debug)]
struct Case {
    matrix: QuantizedMatrix,
    bias: Option<Vec<f32>>,
    x: Array2<f32>,
}

fn cases() -> impl Strategy<Value = Case> {
    // More than what is read side by side for one token, too.
    let outs = prop_oneof![3 => 1..150usize, 1 => 150..600usize];
    let sizes = (outs, prop_oneof![1..300usize, select(vec![32, 64, 128, 256, 384])]);
    let groups = prop_oneof![1..320usize, select(vec![32, 64, 128, usize::MAX])];
    let tokens = select(vec![1usize, 2, 4, 5, 8, 15, 33, 70]);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let bits = select(Bits::ALL.to_vec());
    (bits, sizes, groups, tokens, flags, any::<u16>()).prop_map(
        |(bits, (outs, ins), group, tokens, (symmetric, scattered, bias), seed)| {
            let group = group.min(ins);
            let groups = ins.div_ceil(group);
            let maxq = f32::from(bits.maxq());
            let code = |v: f32| ((v + 1.0) / 2.0 * (maxq + 0.99)) as u8;
            let seed = u32::from(seed);
            // 7 and the width must share no factor, or this is no permutation.
            let scattered = scattered && ins % 7 != 0;
            let place = |c: usize| if scattered { (c * 7 + 3) % ins } else { c };
            let middle = (bits.maxq() / 2) + 1;
            let matrix = QuantizedMatrix {
                bits,
                codes: values(outs, ins, seed).mapv(code),
                // Of both signs.
                scales: values(outs, groups, seed + 1).mapv(|v| half::f16::from_f32(v).to_f32()),
                zeros: values(outs, groups, seed + 2)
                    .mapv(|v| if symmetric { middle } else { code(v).max(1) }),
                g_idx: (0..ins).map(|c| (place(c) / group) as u32).collect(),
            };
            let bias = bias.then(|| values(1, outs, seed + 3).into_raw_vec_and_offset().0);
            // Tokens and channels of very different sizes.
            let mut x = values(tokens, ins, seed + 4);
            for ((t, c), x) in x.indexed_iter_mut() {
                *x *= [1.0, 30.0, 0.01][t % 3] * [1.0, 7.0][usize::from(c % 37 == 5)];
            }
            Case { matrix, bias, x }
        },
    )
}

/// The bytes that activations become, as numbers again, and half a step of each: groups in the
/// order of their inputs, a scale for each 128 of a group.
fn rounded(x: &Array2<f32>, g_idx: &[u32]) -> (Array2<f32>, Array2<f32>) {
    let (mut bytes, mut half_steps) = (x.clone(), Array2::zeros(x.dim()));
    let groups = g_idx.iter().max().map_or(0, |g| g + 1);
    for t in 0..x.nrows() {
        for g in 0..groups {
            let members: Vec<usize> = (0..g_idx.len()).filter(|&c| g_idx[c] == g).collect();
            for block in members.chunks(BLOCK) {
                let largest = block.iter().fold(0f32, |m, &c| m.max(x[(t, c)].abs()));
                for &c in block {
                    let up = if largest > 0.0 { 127.0 / largest } else { 0.0 };
                    bytes[(t, c)] = (x[(t, c)] * up).round_ties_even() * (largest / 127.0);
                    half_steps[(t, c)] = 0.5001 * largest / 127.0;
                }
            }
        }
    }
    (bytes, half_steps)
}

/// Like [`close`], with rounding errors of sums as large as their terms, by output.
fn near(
    got: &Array2<f32>,
    want: &Array2<f32>,
    x: &Array2<f32>,
    weights: &Array2<f32>,
) -> Result<(), String> {
    let sizes = x.mapv(f32::abs).dot(&weights.mapv(f32::abs).t());
    for ((at, got), want) in got.indexed_iter().zip(want) {
        let allowed = 2e-6 * (sizes[at] + want.abs()) + 1e-6;
        if (got - want).abs() > allowed {
            return Err(format!("{got} at {at:?}, not {want}, allowed {allowed}"));
        }
    }
    Ok(())
}

/// Codes and zero points are summed apart: what their largest difference brings counts.
fn apart(matrix: &QuantizedMatrix) -> Array2<f32> {
    let maxq = f32::from(matrix.bits.maxq());
    Array2::from_shape_fn((matrix.out_features(), matrix.in_features()), |(r, c)| {
        2.0 * maxq * matrix.scales[(r, matrix.g_idx[c] as usize)]
    })
}

fn pack(case: &Case) -> PackedLinear {
    let packed = PackedLinear::pack(&case.matrix, ZeroPointFormat::GptqV2).unwrap();
    match &case.bias {
        Some(bias) => packed.with_bias(bias).unwrap(),
        None => packed,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn packed_layers(case in cases()) {
        let layer = pack(&case);
        let plain = Reference.prepare(&layer).unwrap();
        let weights = PackedBackend::dequantize(&Reference, &plain).unwrap();
        let exact = Reference.packed_linear(&case.x, &plain).unwrap();
        let (bytes, half_steps) = rounded(&case.x, &case.matrix.g_idx);
        let of_bytes = Reference.packed_linear(&bytes, &plain).unwrap();
        let half = |a: &Array2<f32>| a.mapv(|v| half::bf16::from_f32(v).to_f32());
        // As the layer holds it, in half precision.
        let bias = layer.bias().map(|b| Array2::from_shape_fn((1, b.len()), |(_, c)| b[c]));
        let of_halves = Reference.linear(&half(&case.x), &half(&weights), bias.as_ref()).unwrap();
        let bound = half_steps.dot(&weights.mapv(f32::abs).t());
        for isa in Isa::available() {
            for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
                let cpu = CpuBackend::with_isa(isa).with_precision(precision);
                let prepared = cpu.prepare(&layer).unwrap();
                prop_assert_eq!(&PackedBackend::dequantize(&cpu, &prepared).unwrap(), &weights);
                let got = cpu.packed_linear(&case.x, &prepared).unwrap();
                let int8 = precision == Precision::Int8;
                let outcome = if int8 {
                    near(&got, &of_bytes, &bytes, &weights)
                } else if cpu.precision() == Precision::Bf16 && case.x.nrows() >= 16 {
                    // Expanded and rounded, because so many tokens are worth it.
                    near(&got, &of_halves, &case.x, &weights)
                } else {
                    near(&got, &exact, &case.x, &apart(&case.matrix))
                };
                prop_assert!(outcome.is_ok(), "{} {}: {outcome:?}", isa.name(), precision.name());
                if int8 {
                    let sizes = case.x.mapv(f32::abs).dot(&weights.mapv(f32::abs).t());
                    for ((at, got), want) in got.indexed_iter().zip(&exact) {
                        let allowed = bound[at] + 4e-6 * sizes[at] + 1e-6;
                        prop_assert!((got - want).abs() <= allowed, "{got}, not {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn dense_layers(
        (outs, ins) in (1..150usize, 1..300usize),
        tokens in select(vec![1usize, 3, 5, 40]),
        kind in 0..3,
        bias in any::<bool>(),
        seed in any::<u16>(),
    ) {
        let narrow = |v: f32| match kind {
            0 => half::bf16::from_f32(v).to_f32(),
            // Also such as are below the smallest normal number.
            1 => half::f16::from_f32(v * v * v * 1e-4).to_f32(),
            _ => v,
        };
        let weights = values(outs, ins, seed.into()).mapv(narrow);
        let bias = bias.then(|| values(1, outs, 8));
        let bias = bias.as_ref().map(|bias| bias.as_slice().unwrap());
        let x = values(tokens, ins, 9);
        let plain = Reference.prepare_dense(weights.view(), bias).unwrap();
        let want = Reference.packed_linear(&x, &plain).unwrap();
        for isa in Isa::available() {
            let cpu = CpuBackend::with_isa(isa);
            let prepared = cpu.prepare_dense(weights.view(), bias).unwrap();
            prop_assert_eq!(&PackedBackend::dequantize(&cpu, &prepared).unwrap(), &weights);
            let width = if kind == 2 { 4 } else { 2 };
            prop_assert_eq!(prepared.bytes(), (width * outs * ins) as u64);
            let got = cpu.packed_linear(&x, &prepared).unwrap();
            // Terms may cancel, so what is summed decides how far sums may differ, not the sum.
            let sizes = x.mapv(f32::abs).dot(&weights.mapv(f32::abs).t());
            for (((at, got), want), size) in got.indexed_iter().zip(&want).zip(&sizes) {
                let allowed = 4e-7 * (ins as f32).sqrt().max(4.0) * (size + want.abs());
                let far = (got - want).abs();
                prop_assert!(far <= allowed, "{}: {got} at {at:?}, not {want}", isa.name());
            }

            // Eight bits: half a step of each weight's group of 64, and half a step of the inputs'.
            let cpu = cpu.with_precision(Precision::Int8);
            let prepared = cpu.prepare_dense(weights.view(), bias).unwrap();
            let eight = PackedBackend::dequantize(&cpu, &prepared).unwrap();
            for (got, want) in eight.rows().into_iter().zip(weights.rows()) {
                for g in (0..ins).step_by(64) {
                    let group = s![g..(g + 64).min(ins)];
                    let (got, want) = (got.slice(group), want.slice(group));
                    let largest = want.fold(0f32, |m, w| m.max(w.abs()));
                    let allowed = 0.5 * largest / 127.0 * 1.002 + 6e-8;
                    prop_assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() <= allowed));
                }
            }
            let g_idx: Vec<u32> = (0..ins).map(|c| (c / 64) as u32).collect();
            let of_bytes = rounded(&x, &g_idx).0.dot(&eight.t())
                + bias.map_or(Array1::zeros(outs), |bias| Array1::from(bias.to_vec()));
            let got = cpu.packed_linear(&x, &prepared).unwrap();
            let outcome = near(&got, &of_bytes, &x, &eight);
            prop_assert!(outcome.is_ok(), "{}: {outcome:?}", isa.name());
        }
    }

    /// Weights for products with many tokens are those products' own numbers.
    #[test]
    fn for_many_tokens(
        (outs, ins) in (1..150usize, 1..300usize),
        tokens in select(vec![1usize, 3, 16, 40]),
        bias in any::<bool>(),
        seed in any::<u16>(),
    ) {
        let weights = values(outs, ins, seed.into());
        let bias = bias.then(|| values(1, outs, 8));
        let row = bias.as_ref().map(|bias| bias.as_slice().unwrap());
        let x = values(tokens, ins, 9);
        for isa in Isa::available() {
            for precision in [Precision::F32, Precision::Bf16] {
                let cpu = CpuBackend::with_isa(isa).with_precision(precision);
                let prepared = cpu.prepare_for_many_tokens(weights.clone(), row).unwrap();
                let in_bf16 = cpu.precision() == Precision::Bf16;
                let round = |v| if in_bf16 { half::bf16::from_f32(v).to_f32() } else { v };
                let numbers = PackedBackend::dequantize(&cpu, &prepared).unwrap();
                prop_assert_eq!(numbers, weights.mapv(round));
                let rounded = Reference.linear(&x.mapv(round), &weights.mapv(round), bias.as_ref());
                let got = cpu.packed_linear(&x, &prepared).unwrap();
                let outcome = close(&got, &rounded.unwrap(), ins);
                prop_assert!(outcome.is_ok(), "{} {}: {outcome:?}", isa.name(), precision.name());
                if tokens >= 16 {
                    prop_assert_eq!(got, cpu.linear(&x, &weights, bias.as_ref()).unwrap());
                }
            }
        }
    }

    /// Several layers of one input are each what they are alone, whatever orders they want it in.
    #[test]
    fn together(case in cases(), other in cases(), threads in 1..4usize) {
        let ins = case.matrix.in_features();
        let layer = pack(&case);
        let dense = values(90, ins, 3);
        let fits = other.matrix.in_features() == ins;
        for precision in [Precision::F32, Precision::Int8] {
            let cpu = CpuBackend::new().with_precision(precision);
            let mut layers = vec![
                cpu.prepare(&layer).unwrap(),
                cpu.prepare_dense(dense.view(), None).unwrap(),
                cpu.prepare(&layer).unwrap(),
            ];
            layers.extend(fits.then(|| cpu.prepare(&pack(&other)).unwrap()));
            let layers: Vec<_> = layers.iter().collect();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let all = pool.install(|| cpu.linears(&case.x, &layers).unwrap());
            for (got, layer) in all.iter().zip(layers) {
                prop_assert_eq!(got, &cpu.packed_linear(&case.x, layer).unwrap());
            }
        }
    }
}

#[test]
fn a_layer_without_inputs_gives_its_bias() {
    let bias = [1.0, -2.0, 3.0];
    for precision in [Precision::F32, Precision::Int8] {
        let cpu = CpuBackend::new().with_precision(precision);
        let layer = cpu.prepare_dense(Array2::zeros((3, 0)).view(), Some(&bias)).unwrap();
        for tokens in [1, 5, 40] {
            let y = cpu.packed_linear(&Array2::zeros((tokens, 0)), &layer).unwrap();
            assert!(y.rows().into_iter().all(|row| row.iter().eq(&bias)), "{precision:?}: {y}");
        }
    }
}
