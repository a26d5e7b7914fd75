//! Every kernel on every instruction set of this machine against its plain twin, at awkward sizes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "what was tried and how close it came, with --nocapture")]

use gptq_core::{AttentionShape, Backend, Bits, QuantizedMatrix, Reference};
use gptq_kernels::{CpuBackend, Isa};
use gptq_pack::{PackedBackend, PackedLinear, ZeroPointFormat};
use ndarray::{Array2, s};
use proptest::prelude::*;

/// Reproducible numbers in [-1, 1).
fn values(rows: usize, columns: usize, seed: u32) -> Array2<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    Array2::from_shape_fn((rows, columns), |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    })
}

/// f32 sums of n products in another order differ by about this much of their size.
fn close(got: &Array2<f32>, want: &Array2<f32>, terms: usize) -> Result<(), String> {
    let largest = want.fold(0f32, |m, v| m.max(v.abs())).max(1e-3);
    let worst = (got - want).fold(0f32, |m, v| m.max(v.abs()));
    let allowed = 4e-7 * (terms as f32).sqrt().max(4.0) * largest;
    if got.dim() == want.dim() && worst <= allowed {
        return Ok(());
    }
    Err(format!("{worst} of {largest}, allowed {allowed}"))
}

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

#[test]
fn attention() {
    each(|cpu| {
        for (tokens, past, heads, kv_heads, head_dim) in [
            (1, 0, 1, 1, 4),
            (5, 0, 4, 2, 8),
            (130, 0, 2, 1, 16),
            (1, 70, 6, 2, 12),
            (9, 60, 3, 3, 10),
        ] {
            let keys = past + tokens;
            let scale = 1.0 / (head_dim as f32).sqrt();
            let shape = AttentionShape { heads, kv_heads, head_dim, scale, keys };
            let q = values(tokens, heads * head_dim, 6) * 4.0;
            // A cache has room beyond the keys in use.
            let k = values(keys + 3, kv_heads * head_dim, 7) * 4.0;
            let v = values(keys + 3, kv_heads * head_dim, 8);
            let want = Reference.attention(&q, &k, &v, &shape).unwrap();
            close(&cpu.attention(&q, &k, &v, &shape).unwrap(), &want, 64).unwrap();
        }
    });
}

#[test]
fn elementwise() {
    each(|cpu| {
        for (rows, columns) in [(1, 1), (7, 33), (40, 500)] {
            let (x, y) = (values(rows, columns, 9) * 8.0, values(rows, columns, 10));
            let weight = values(1, columns, 11);
            let want = Reference.rms_norm(&x, &weight, 1e-5).unwrap();
            close(&cpu.rms_norm(&x, &weight, 1e-5).unwrap(), &want, columns).unwrap();
            let want = Reference.gated_silu(&x, &y).unwrap();
            close(&cpu.gated_silu(&x, &y).unwrap(), &want, 16).unwrap();
            let (mut a, mut b) = (x.clone(), x.clone());
            Reference.add_assign(&mut a, &y).unwrap();
            cpu.add_assign(&mut b, &y).unwrap();
            assert_eq!(a, b);
        }
        let table = values(50, 12, 12);
        let rows = [3, 3, 49, 0];
        assert_eq!(cpu.gather(&table, &rows).unwrap(), Reference.gather(&table, &rows).unwrap());
    });
}

#[test]
fn rope() {
    each(|cpu| {
        // All channels of a head, and only some.
        for (head_dim, half) in [(8, 4), (10, 3)] {
            let x = values(5, 3 * head_dim, 13);
            let (cos, sin) = (values(5, half, 14), values(5, half, 15));
            let (mut a, mut b) = (x.clone(), x);
            Reference.rope(&mut a, &cos, &sin, head_dim).unwrap();
            cpu.rope(&mut b, &cos, &sin, head_dim).unwrap();
            close(&b, &a, 4).unwrap();
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
            let one = x.slice(s![..1, ..]).to_owned();
            [
                cpu.linear(&x, &w, None).unwrap(),
                cpu.packed_linear(&x, &prepared).unwrap(),
                cpu.packed_linear(&one, &prepared).unwrap(),
                gram,
                cross,
            ]
        })
    };
    let one = run(1);
    for threads in [2, 5] {
        assert_eq!(one, run(threads), "{threads} threads");
    }
}
