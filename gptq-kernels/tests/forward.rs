//! Every operation of a forward pass on every instruction set of this machine against its plain
//! twin, over random shapes and settings.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod common;

use common::{close, values};
use gptq_core::{
    AttentionShape, Backend, Gate, Norm, NormKind, Pointwise, Reference, RopeShape, ScoreTerms,
    Window,
};
use gptq_kernels::{CpuBackend, Isa};
use ndarray::Array2;
use proptest::{option, prelude::*, sample::select};

fn each() -> impl Iterator<Item = CpuBackend> {
    Isa::available().into_iter().map(CpuBackend::with_isa)
}

fn windows() -> impl Strategy<Value = Window> {
    prop_oneof![
        Just(Window::Full),
        (1..200usize).prop_map(Window::Sliding),
        (1..200usize).prop_map(Window::Chunked),
    ]
}

fn functions() -> impl Strategy<Value = Pointwise> {
    prop_oneof![
        (-3f32..3.0).prop_map(Pointwise::Scale),
        (0f32..9.0).prop_map(Pointwise::Clamp),
        (0.5f32..50.0).prop_map(Pointwise::SoftCap),
        select(vec![Pointwise::Silu, Pointwise::Gelu, Pointwise::GeluTanh, Pointwise::Relu]),
    ]
}

fn gates() -> impl Strategy<Value = Gate> {
    prop_oneof![
        functions().prop_map(Gate::Of),
        (0.5f32..8.0, 0.5f32..2.0).prop_map(|(limit, alpha)| Gate::Clamped { limit, alpha }),
    ]
}

/// Each entry to a few units in its last place, and the small ones to 1e-8 of the input's size: an
/// exponent of 10 is rounded by 1e-6, which is that share of its power.
fn near(got: &Array2<f32>, want: &Array2<f32>) -> Result<(), String> {
    match got.iter().zip(want).find(|(g, w)| (*g - *w).abs() > 1e-6 * w.abs() + 1e-8) {
        _ if got.dim() != want.dim() => Err("another shape".into()),
        Some((got, want)) => Err(format!("{got}, not {want}")),
        None => Ok(()),
    }
}

fn divisor(n: usize, seed: usize) -> usize {
    let all: Vec<usize> = (1..=n).filter(|d| n.is_multiple_of(*d)).collect();
    all[seed % all.len()]
}

/// Also such as fill the vectors of kernels.
fn head_dims() -> impl Strategy<Value = usize> {
    prop_oneof![1..20usize, select(vec![64, 72, 128])]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn attention(
        (tokens, past) in (select(vec![1usize, 2, 17, 64, 65, 130]), 0..150usize),
        (kv_heads, queries_per_head) in (1..4usize, 1..6usize),
        (head_dim, value_dim) in (head_dims(), head_dims()),
        window in windows(),
        softcap in option::of(1f32..30.0),
        (biased, sunk) in any::<(bool, bool)>(),
        seed in any::<u16>(),
    ) {
        let (heads, keys, seed) = (kv_heads * queries_per_head, past + tokens, u32::from(seed));
        let scale = 1.0 / (head_dim as f32).sqrt();
        let shape =
            AttentionShape { heads, kv_heads, head_dim, value_dim, scale, softcap, window, keys, texts: 1 };
        let q = values(tokens, heads * head_dim, seed) * 2.0;
        // A cache has room beyond the keys in use.
        let k = values(keys + 3, kv_heads * head_dim, seed + 1) * 2.0;
        let v = values(keys + 3, kv_heads * value_dim, seed + 2);
        let bias = values(heads, keys + 2, seed + 3) * 3.0;
        let sinks = values(1, heads, seed + 4) * 5.0;
        let terms =
            ScoreTerms { key_bias: biased.then_some(&bias), sinks: sunk.then_some(&sinks) };
        let want = Reference.attention(&q, &k, &v, &shape, terms).unwrap();
        for cpu in each() {
            let got = cpu.attention(&q, &k, &v, &shape, terms).unwrap();
            // An error in a score, of size 20 at most, is one in the logarithm of a weight.
            let outcome = close(&got, &want, 256);
            prop_assert!(outcome.is_ok(), "{}: {outcome:?}", cpu.isa().name());
        }
    }

    /// More keys than runs of the shortest length, which are cut otherwise then.
    #[test]
    fn attention_of_one_query_to_many_keys(
        keys in 2040..2500usize,
        (kv_heads, queries_per_head) in (1..3usize, 1..6usize),
        sunk in any::<bool>(),
        seed in any::<u16>(),
    ) {
        let (heads, seed) = (kv_heads * queries_per_head, u32::from(seed));
        let (head_dim, value_dim, scale) = (16, 24, 0.25);
        let (softcap, window) = (None, Window::Full);
        let shape =
            AttentionShape { heads, kv_heads, head_dim, value_dim, scale, softcap, window, keys, texts: 1 };
        let q = values(1, heads * head_dim, seed) * 4.0;
        let k = values(keys, kv_heads * head_dim, seed + 1) * 2.0;
        let v = values(keys, kv_heads * value_dim, seed + 2);
        let sinks = values(1, heads, seed + 3) * 5.0;
        let terms = ScoreTerms { key_bias: None, sinks: sunk.then_some(&sinks) };
        let want = Reference.attention(&q, &k, &v, &shape, terms).unwrap();
        for cpu in each() {
            let got = cpu.attention(&q, &k, &v, &shape, terms).unwrap();
            let outcome = close(&got, &want, 256);
            prop_assert!(outcome.is_ok(), "{}: {outcome:?}", cpu.isa().name());
            let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
            let of_three = pool.install(|| cpu.attention(&q, &k, &v, &shape, terms).unwrap());
            prop_assert_eq!(of_three, got, "threads change {}", cpu.isa().name());
        }
    }

    #[test]
    fn norm(
        (rows, columns) in (1..20usize, 1..600usize),
        (segment, weights, biases) in any::<(usize, usize, usize)>(),
        layer in any::<bool>(),
        (weighted, biased) in any::<(bool, bool)>(),
        seed in any::<u16>(),
    ) {
        let seed = u32::from(seed);
        // At least two channels, or the variance is all rounding.
        let segment = divisor(columns, segment).max(2);
        let columns = columns.next_multiple_of(segment);
        let x = values(rows, columns, seed) * 8.0 + 0.5;
        let weight = values(1, divisor(columns, weights), seed + 1);
        let bias = values(1, divisor(columns, biases), seed + 2);
        let norm = Norm {
            kind: if layer { NormKind::Layer } else { NormKind::Rms },
            eps: 1e-2,
            segment,
            weight: weighted.then_some(&weight),
            bias: biased.then_some(&bias),
        };
        let want = Reference.norm(&x, &norm).unwrap();
        for cpu in each() {
            let outcome = close(&cpu.norm(&x, &norm).unwrap(), &want, segment);
            prop_assert!(outcome.is_ok(), "{}: {outcome:?}", cpu.isa().name());
        }
    }

    #[test]
    fn rope(
        (tokens, heads) in (1..8usize, 1..5usize),
        (offset, half, rest) in (0..9usize, 1..20usize, 0..9usize),
        interleaved in any::<bool>(),
        seed in any::<u16>(),
    ) {
        let seed = u32::from(seed);
        let shape = RopeShape { head_dim: offset + 2 * half + rest, offset, interleaved };
        let x = values(tokens, heads * shape.head_dim, seed);
        let (cos, sin) = (values(tokens, half, seed + 1), values(tokens, half, seed + 2));
        let mut want = x.clone();
        Reference.rope(&mut want, &cos, &sin, shape).unwrap();
        for cpu in each() {
            let mut got = x.clone();
            cpu.rope(&mut got, &cos, &sin, shape).unwrap();
            prop_assert_eq!(close(&got, &want, 4), Ok(()));
        }
    }

    #[test]
    fn pointwise(
        f in functions(),
        gate in gates(),
        (rows, columns) in (1..30usize, 1..1500usize),
        seed in any::<u16>(),
    ) {
        let seed = u32::from(seed);
        let (x, up) = (values(rows, columns, seed) * 8.0, values(rows, columns, seed + 1) * 8.0);
        let mut want = x.clone();
        Reference.apply(&mut want, f).unwrap();
        let gated = Reference.gated(&x, &up, gate).unwrap();
        for cpu in each() {
            let mut got = x.clone();
            cpu.apply(&mut got, f).unwrap();
            let outcome = near(&got, &want);
            prop_assert!(outcome.is_ok(), "{f:?}, {}: {outcome:?}", cpu.isa().name());
            let outcome = near(&cpu.gated(&x, &up, gate).unwrap(), &gated);
            prop_assert!(outcome.is_ok(), "{gate:?}, {}: {outcome:?}", cpu.isa().name());
        }
    }

    /// Without sums of products: bit for bit, or nearly.
    #[test]
    fn rows_and_columns(
        (rows, left, right) in (1..30usize, 1..700usize, 1..30usize),
        picks in prop::collection::vec((any::<u32>(), 1..9u32), 0..20),
        seed in any::<u16>(),
    ) {
        let seed = u32::from(seed);
        let (x, y) = (values(rows, left, seed), values(rows, right, seed + 1));
        let width = (left + right) as u32;
        // Single columns and runs, some of them across the seam.
        let index: Vec<u32> = picks
            .iter()
            .flat_map(|&(at, run)| (0..run).map(move |i| (at % width + i) % width))
            .collect();
        let factors = values(1, rows, seed + 2).into_raw_vec_and_offset().0;
        let targets: Vec<u32> = picks.iter().map(|&(at, _)| at % rows as u32).collect();
        let weights = values(1, targets.len(), seed + 3).into_raw_vec_and_offset().0;
        let experts = values(targets.len(), left, seed + 4);

        let columns = Reference.columns(&[&x, &y], &index).unwrap();
        let mut scaled = x.clone();
        Reference.scale_rows(&mut scaled, &factors).unwrap();
        let mut sums = x.clone();
        Reference.scatter_add(&mut sums, &targets, &weights, &experts).unwrap();
        let mut added = x.clone();
        Reference.add_assign(&mut added, &scaled).unwrap();
        let gathered = Reference.gather(&x, &targets).unwrap();
        for cpu in each() {
            prop_assert_eq!(&cpu.columns(&[&x, &y], &index).unwrap(), &columns);
            prop_assert_eq!(&cpu.gather(&x, &targets).unwrap(), &gathered);
            let mut got = x.clone();
            cpu.scale_rows(&mut got, &factors).unwrap();
            prop_assert_eq!(&got, &scaled);
            let mut got = x.clone();
            cpu.scatter_add(&mut got, &targets, &weights, &experts).unwrap();
            prop_assert_eq!(close(&got, &sums, 16), Ok(()));
            let mut got = x.clone();
            cpu.add_assign(&mut got, &scaled).unwrap();
            prop_assert_eq!(&got, &added);
        }
    }
}

#[test]
fn a_nan_stays_one() {
    let x = Array2::from_elem((3, 40), f32::NAN);
    for cpu in each() {
        for f in [
            Pointwise::Scale(0.0),
            Pointwise::Clamp(1.0),
            Pointwise::SoftCap(30.0),
            Pointwise::Silu,
            Pointwise::Gelu,
            Pointwise::GeluTanh,
            Pointwise::Relu,
        ] {
            let mut y = x.clone();
            cpu.apply(&mut y, f).unwrap();
            assert!(y.iter().all(|y| y.is_nan()), "{f:?} on {}", cpu.isa().name());
        }
        let clamped = Gate::Clamped { limit: 7.0, alpha: 1.702 };
        let one = Array2::ones(x.dim());
        for (gate, up) in [(&x, &one), (&one, &x)] {
            let y = cpu.gated(gate, up, clamped).unwrap();
            assert!(y.iter().all(|y| y.is_nan()), "{clamped:?} on {}", cpu.isa().name());
        }
    }
}
