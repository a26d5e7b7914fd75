//! Every kernel on every instruction set of this machine against its plain twin, at awkward sizes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "what was tried and how close it came, with --nocapture")]

mod common;

use common::{close, values};
use gptq_core::{
    AttentionShape, Backend, Bits, Norm, NormKind, QuantizedMatrix, Reference, ScoreTerms, Window,
};
use gptq_kernels::{CpuBackend, Isa};
use gptq_pack::{PackedBackend, PackedLinear, ZeroPointFormat};
use ndarray::{Array2, s};
use proptest::prelude::*;

fn each(mut check: impl FnMut(CpuBackend)) {
    let all = Isa::available();
    println!("instruction sets tried: {:?}", all.iter().map(|i| i.name()).collect::<Vec<_>>());
    all.into_iter().for_each(|isa| check(CpuBackend::with_isa(isa)));
}

#[test]
fn linear() {
    each(|cpu| {
        for (tokens, ins, outs) in
            [(1, 1, 1), (1, 100, 300), (3, 65, 7), (130, 96, 257), (64, 1, 5)]
        {
            let (x, w) = (values(tokens, ins, 1), values(outs, ins, 2));
            let bias = values(1, outs, 3);
            for bias in [None, Some(&bias)] {
                let want = Reference.linear(&x, &w, bias).unwrap();
                close(&cpu.linear(&x, &w, bias).unwrap(), &want, ins).unwrap();
            }
        }
    });
}

#[test]
fn gram_upper_triangle() {
    each(|cpu| {
        for (tokens, n) in [(1, 1), (5, 30), (100, 256), (33, 300)] {
            let x = values(tokens, n, 4);
            let mut want = values(n, n, 5);
            let mut got = want.clone();
            Reference.accumulate_gram(&mut want, &x).unwrap();
            cpu.accumulate_gram(&mut got, &x).unwrap();
            for i in 0..n {
                let row = |a: &Array2<f32>| a.slice(s![i..i + 1, i..]).to_owned();
                close(&row(&got), &row(&want), tokens).unwrap();
            }
        }
    });
}

#[test]
fn cross_moment() {
    each(|cpu| {
        for (tokens, n) in [(1, 1), (5, 30), (100, 256), (33, 300)] {
            let (native, x) = (values(tokens, n, 16), values(tokens, n, 17));
            let mut want = values(n, n, 18);
            let mut got = want.clone();
            Reference.accumulate_cross(&mut want, &native, &x).unwrap();
            cpu.accumulate_cross(&mut got, &native, &x).unwrap();
            close(&got, &want, tokens).unwrap();
        }
    });
}

fn packed(
    bits: Bits,
    outs: usize,
    ins: usize,
    group: usize,
    scattered: bool,
    seed: u32,
) -> PackedLinear {
    let maxq = f32::from(bits.maxq());
    let groups = ins.div_ceil(group);
    let to_code = |v: f32| ((v + 1.0) / 2.0 * (maxq + 0.99)) as u8;
    let matrix = QuantizedMatrix {
        bits,
        codes: values(outs, ins, seed).mapv(to_code),
        scales: values(outs, groups, seed + 1).mapv(|v| half_precision(v * 0.01 + 0.02)),
        zeros: values(outs, groups, seed + 2).mapv(|v| to_code(v).max(1)),
        g_idx: (0..ins)
            .map(|c| if scattered { (c * 7 + 3) % ins } else { c } / group)
            .map(|g| g as u32)
            .collect(),
    };
    let bias = values(1, outs, seed + 3).into_raw_vec_and_offset().0;
    PackedLinear::pack(&matrix, ZeroPointFormat::Gptq).unwrap().with_bias(&bias).unwrap()
}

/// Cuts to ten significant bits, which half precision holds exactly.
fn half_precision(v: f32) -> f32 {
    f32::from_bits(v.to_bits() & 0xFFFF_E000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn packed_products(
        bits in prop::sample::select(Bits::ALL.to_vec()),
        (outs, ins) in (1..120usize, 1..200usize),
        group in 1..220usize,
        tokens in prop::sample::select(vec![1usize, 2, 5, 70]),
        scattered in any::<bool>(),
        seed in any::<u16>(),
    ) {
        let group = group.min(ins);
        // Scattering needs a permutation: 7 and the width must share no factor.
        let scattered = scattered && ins % 7 != 0;
        let layer = packed(bits, outs, ins, group, scattered, seed.into());
        let x = values(tokens, ins, 99);
        let plain = Reference.prepare(&layer).unwrap();
        let want = Reference.packed_linear(&x, &plain).unwrap();
        let weights = PackedBackend::dequantize(&Reference, &plain).unwrap();
        for isa in Isa::available() {
            let cpu = CpuBackend::with_isa(isa);
            let prepared = cpu.prepare(&layer).unwrap();
            let got = cpu.packed_linear(&x, &prepared).unwrap();
            // Codes and zero points are summed apart and subtracted: up to maxq larger terms.
            let spread = 64 * ins;
            let outcome = close(&got, &want, spread);
            prop_assert!(outcome.is_ok(), "{}: {:?}", isa.name(), outcome);
            prop_assert_eq!(PackedBackend::dequantize(&cpu, &prepared).unwrap(), weights.clone());
        }
    }
}

#[test]
fn same_bytes_at_any_thread_count() {
    let (x, w) = (values(200, 300, 20), values(500, 300, 21));
    let bias = values(1, 300, 23);
    let norm = Norm {
        kind: NormKind::Layer,
        eps: 1e-5,
        segment: 60,
        weight: Some(&bias),
        bias: Some(&bias),
    };
    let shape = AttentionShape {
        heads: 5,
        kv_heads: 5,
        head_dim: 60,
        value_dim: 60,
        scale: 0.1,
        softcap: Some(2.0),
        window: Window::Sliding(70),
        keys: 200,
        texts: 1,
    };
    // Many rows come back to the same ones.
    let targets: Vec<u32> = (0..200).map(|i| i % 7).collect();
    let weights = vec![0.3; 200];
    let layer = packed(Bits::B4, 500, 300, 128, false, 22);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let cpu = CpuBackend::new();
            let prepared = cpu.prepare(&layer).unwrap();
            let mut gram = Array2::zeros((300, 300));
            cpu.accumulate_gram(&mut gram, &x).unwrap();
            let mut cross = Array2::zeros((300, 300));
            cpu.accumulate_cross(&mut cross, &(&x * 1.5), &x).unwrap();
            let mut sums = Array2::zeros((7, 300));
            cpu.scatter_add(&mut sums, &targets, &weights, &x).unwrap();
            let one = x.slice(s![..1, ..]).to_owned();
            [
                cpu.linear(&x, &w, None).unwrap(),
                cpu.packed_linear(&x, &prepared).unwrap(),
                cpu.packed_linear(&one, &prepared).unwrap(),
                cpu.norm(&x, &norm).unwrap(),
                cpu.attention(&x, &x, &x, &shape, ScoreTerms::default()).unwrap(),
                gram,
                cross,
                sums,
            ]
        })
    };
    let one = run(1);
    for threads in [2, 5] {
        assert_eq!(one, run(threads), "{threads} threads");
    }
}
