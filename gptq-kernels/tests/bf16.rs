//! Products of bf16 against plain f32 products of the same numbers, rounded beforehand.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod common;

use common::{close, values};
use gptq_core::{AttentionShape, Backend, Reference, ScoreTerms, Window};
use gptq_kernels::{CpuBackend, Isa, Precision};
use half::bf16;
use ndarray::{Array2, Axis, concatenate, s};
use proptest::prelude::*;

/// Every instruction set that multiplies bf16; none on many machines.
fn each() -> impl Iterator<Item = CpuBackend> {
    let all = Isa::available().into_iter();
    all.map(|isa| CpuBackend::with_isa(isa).with_precision(Precision::Bf16))
        .filter(|cpu| cpu.precision() == Precision::Bf16)
}

fn rounded(a: &Array2<f32>) -> Array2<f32> {
    a.mapv(|x| bf16::from_f32(x).to_f32())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn linear(
        (tokens, ins, outs) in (16..300usize, 1..600usize, 1..300usize),
        biased in any::<bool>(),
        seed in any::<u16>(),
    ) {
        let seed = u32::from(seed);
        let (x, w) = (values(tokens, ins, seed) * 3.0, values(outs, ins, seed + 1));
        let bias = values(1, outs, seed + 2);
        let bias = biased.then_some(&bias);
        let want = Reference.linear(&rounded(&x), &rounded(&w), bias).unwrap();
        for cpu in each() {
            let outcome = close(&cpu.linear(&x, &w, bias).unwrap(), &want, ins);
            prop_assert!(outcome.is_ok(), "{}: {outcome:?}", cpu.isa().name());
        }
    }

    #[test]
    fn moments((tokens, n) in (1..200usize, 1..600usize), seed in any::<u16>()) {
        let seed = u32::from(seed);
        let (x, native) = (values(tokens, n, seed), values(tokens, n, seed + 1));
        let start = values(n, n, seed + 2);
        let (mut gram, mut cross) = (start.clone(), start.clone());
        Reference.accumulate_gram(&mut gram, &rounded(&x)).unwrap();
        // The difference is taken before it is rounded.
        let difference = rounded(&(&native - &x));
        cross += &difference.t().dot(&rounded(&x));
        for cpu in each() {
            let (mut h, mut d) = (start.clone(), start.clone());
            cpu.accumulate_gram(&mut h, &x).unwrap();
            cpu.accumulate_cross(&mut d, &native, &x).unwrap();
            for i in 0..n {
                let upper = |a: &Array2<f32>| a.slice(s![i..i + 1, i..]).to_owned();
                let outcome = close(&upper(&h), &upper(&gram), tokens);
                prop_assert!(outcome.is_ok(), "{}: {outcome:?}", cpu.isa().name());
            }
            let outcome = close(&d, &cross, tokens);
            prop_assert!(outcome.is_ok(), "{}: {outcome:?}", cpu.isa().name());
        }
    }

    /// Weights of softmax are off by the rounding of scores of size 8 at most, and by their own.
    #[test]
    fn attention(
        (length, past, texts) in (16..150usize, 0..100usize, 1..4usize),
        (kv_heads, queries_per_head) in (1..3usize, 1..3usize),
        (head_dim, value_dim) in (1..70usize, 1..70usize),
        window in prop_oneof![
            Just(Window::Full),
            (1..90usize).prop_map(Window::Sliding),
            (1..90usize).prop_map(Window::Chunked),
        ],
        (biased, sunk) in any::<(bool, bool)>(),
        seed in any::<u16>(),
    ) {
        let past = if texts > 1 { 0 } else { past };
        let (heads, keys, seed) = (kv_heads * queries_per_head, past + length, u32::from(seed));
        let scale = 1.0 / (head_dim as f32).sqrt();
        let shape = AttentionShape {
            heads, kv_heads, head_dim, value_dim, scale, window, keys, texts, softcap: None,
        };
        let q = rounded(&(values(texts * length, heads * head_dim, seed) * 2.0));
        let k = rounded(&(values(texts * keys, kv_heads * head_dim, seed + 1) * 2.0));
        let v = rounded(&values(texts * keys, kv_heads * value_dim, seed + 2));
        let bias = values(heads, keys, seed + 3) * 3.0;
        let sinks = values(1, heads, seed + 4) * 5.0;
        let terms =
            ScoreTerms { key_bias: biased.then_some(&bias), sinks: sunk.then_some(&sinks) };
        let want = Reference.attention(&q, &k, &v, &shape, terms).unwrap();
        for cpu in each() {
            let got = cpu.attention(&q, &k, &v, &shape, terms).unwrap();
            let worst = (&got - &want).fold(0f32, |m, d| m.max(d.abs()));
            prop_assert!(worst < 0.03, "{}: {worst}", cpu.isa().name());
        }
    }
}

/// Texts that stand one below the other do not know of each other, at any precision.
#[test]
fn texts_are_attended_to_apart() {
    let (length, heads, dim) = (70, 3, 20);
    let one = AttentionShape {
        heads,
        kv_heads: 1,
        head_dim: dim,
        value_dim: dim,
        scale: 0.3,
        softcap: None,
        window: Window::Sliding(50),
        keys: length,
        texts: 1,
    };
    let of = |width, seed| (0..3u32).map(|t| values(length, width, seed + t)).collect::<Vec<_>>();
    let (q, k, v) = (of(heads * dim, 1), of(dim, 11), of(dim, 21));
    let below = |parts: &[Array2<f32>]| {
        let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
        concatenate(Axis(0), &views).unwrap()
    };
    let stacked = AttentionShape { texts: 3, ..one };
    for cpu in each().chain(Isa::available().into_iter().map(CpuBackend::with_isa)) {
        let parts: Vec<_> = (0..3)
            .map(|t| cpu.attention(&q[t], &k[t], &v[t], &one, ScoreTerms::default()).unwrap())
            .collect();
        let terms = ScoreTerms::default();
        let all = cpu.attention(&below(&q), &below(&k), &below(&v), &stacked, terms).unwrap();
        assert_eq!(all, below(&parts), "{}", cpu.isa().name());
    }
}
