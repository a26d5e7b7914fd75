//! Every operation of a forward pass against its plain twin.

use gptq_core::{
    AttentionShape, Backend, Gate, Norm, NormKind, Pointwise, Reference, RopeShape, ScoreTerms,
    Window,
};
use gptq_kernels::cuda::{CudaBackend, CudaTensor, Half};
use half::{bf16, f16};
use ndarray::{Array2, Axis};
use proptest::{option, prelude::*, sample::select};

use crate::{
    common::{close, values},
    gpu::gpu,
};

fn up(a: &Array2<f32>) -> CudaTensor {
    gpu().upload(a.view()).unwrap()
}

fn divisor(n: usize, seed: usize) -> usize {
    let all: Vec<usize> = (1..=n).filter(|d| n.is_multiple_of(*d)).collect();
    all[seed % all.len()]
}

/// Each entry to a few units of its last places: a GPU's own functions are off by two.
fn near(got: &Array2<f32>, want: &Array2<f32>) -> Result<(), String> {
    let far = |(g, w): &(&f32, &f32)| g.is_nan() || (*g - *w).abs() > 4e-6 * w.abs() + 1e-7;
    match got.iter().zip(want).find(far) {
        _ if got.dim() != want.dim() => Err("another shape".into()),
        Some((got, want)) => Err(format!("{got}, not {want}")),
        None => Ok(()),
    }
}

fn windows() -> impl Strategy<Value = Window> {
    prop_oneof![
        Just(Window::Full),
        (1..200usize).prop_map(Window::Sliding),
        (1..200usize).prop_map(Window::Chunked),
    ]
}

/// The largest difference; infinite where one is no number.
fn farthest(got: &Array2<f32>, want: &Array2<f32>) -> f32 {
    let all = got.iter().zip(want).map(|(g, w)| (g - w).abs());
    all.fold(0f32, |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) })
}

/// As halves hold them.
fn rounded(half: Half, a: Array2<f32>) -> Array2<f32> {
    a.mapv(|v| match half {
        Half::F16 => f16::from_f32(v).to_f32(),
        Half::Bf16 => bf16::from_f32(v).to_f32(),
    })
}

/// A cache with these rows, which come in two pieces, and with room for more.
fn cache_of(gpu: &CudaBackend, rows: &Array2<f32>, room: usize) -> CudaTensor {
    let mut cache = gpu.cache(rows.nrows() + room, rows.ncols()).unwrap();
    let (first, rest) = rows.view().split_at(Axis(0), rows.nrows() / 3);
    gpu.write_rows(&mut cache, 0, &gpu.upload(first).unwrap()).unwrap();
    gpu.write_rows(&mut cache, first.nrows(), &gpu.upload(rest).unwrap()).unwrap();
    cache
}

/// What a GPU makes of it, and its definition.
fn attend(
    gpu: &CudaBackend,
    qkv: [&Array2<f32>; 3],
    shape: &AttentionShape,
    terms: (bool, bool),
    seed: u32,
) -> (Array2<f32>, Array2<f32>) {
    attend_to(gpu, qkv, [up(qkv[1]), up(qkv[2])], shape, terms, seed)
}

/// The same where the GPU has the keys and values already.
fn attend_to(
    gpu: &CudaBackend,
    [q, k, v]: [&Array2<f32>; 3],
    [keys, values_of]: [CudaTensor; 2],
    shape: &AttentionShape,
    (biased, sunk): (bool, bool),
    seed: u32,
) -> (Array2<f32>, Array2<f32>) {
    let bias = values(shape.heads, shape.keys + 2, seed + 3) * 3.0;
    let sinks = values(1, shape.heads, seed + 4) * 5.0;
    let terms = ScoreTerms { key_bias: biased.then_some(&bias), sinks: sunk.then_some(&sinks) };
    let want = Reference.attention(q, k, v, shape, terms).unwrap();
    let (bias, sinks) = (up(&bias), up(&sinks));
    let terms = ScoreTerms { key_bias: biased.then_some(&bias), sinks: sunk.then_some(&sinks) };
    let got = gpu.attention(&up(q), &keys, &values_of, shape, terms).unwrap();
    (gpu.download(&got).unwrap(), want)
}

const FUNCTIONS: [Pointwise; 7] = [
    Pointwise::Scale(-1.5),
    Pointwise::Clamp(2.0),
    Pointwise::SoftCap(3.0),
    Pointwise::Silu,
    Pointwise::Gelu,
    Pointwise::GeluTanh,
    Pointwise::Relu,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn attention(
        // Many rows of a cache: one token's keys are shared among blocks.
        (tokens, past, room) in (select(vec![1usize, 1, 2, 17]), 0..150usize, select(vec![0usize, 3, 900])),
        (kv_heads, queries_per_head, texts) in (1..3usize, 1..4usize, 1..3usize),
        (head_dim, value_dim) in (select(vec![1usize, 6, 16, 64]), select(vec![3usize, 32, 80])),
        window in windows(),
        softcap in option::of(1f32..30.0),
        (biased, sunk) in any::<(bool, bool)>(),
        seed in any::<u16>(),
    ) {
        let (heads, keys, seed) = (kv_heads * queries_per_head, past + tokens, u32::from(seed));
        let scale = 1.0 / (head_dim as f32).sqrt();
        let shape = AttentionShape {
            heads, kv_heads, head_dim, value_dim, scale, softcap, window, keys, texts,
        };
        let q = values(tokens * texts, heads * head_dim, seed) * 2.0;
        let k = values(keys * texts + room, kv_heads * head_dim, seed + 1) * 2.0;
        let v = values(keys * texts + room, kv_heads * value_dim, seed + 2);
        let (got, want) = attend(&gpu(), [&q, &k, &v], &shape, (biased, sunk), seed);
        let outcome = close(&got, &want, 256);
        prop_assert!(outcome.is_ok(), "{outcome:?}");
    }

    /// On tensor cores, with factors in halves: what they lose is known, and no more is lost.
    #[test]
    fn attention_of_many_tokens(
        (tokens, past) in (select(vec![16usize, 40, 64, 65, 130]), prop_oneof![Just(0), 0..150usize]),
        (kv_heads, queries_per_head, texts) in (1..3usize, 1..3usize, 1..3usize),
        (dim, half) in (select(vec![64usize, 128]), select(vec![Half::F16, Half::Bf16])),
        window in windows(),
        softcap in option::of(1f32..30.0),
        (biased, sunk) in any::<(bool, bool)>(),
        seed in any::<u16>(),
    ) {
        let (heads, keys, seed) = (kv_heads * queries_per_head, past + tokens, u32::from(seed));
        let shape = AttentionShape {
            heads, kv_heads, head_dim: dim, value_dim: dim, scale: 1.0 / (dim as f32).sqrt(),
            softcap, window, keys, texts,
        };
        let q = rounded(half, values(tokens * texts, heads * dim, seed) * 2.0);
        let k = rounded(half, values(keys * texts + 3, kv_heads * dim, seed + 1) * 2.0);
        let v = rounded(half, values(keys * texts + 3, kv_heads * dim, seed + 2));
        let gpu = gpu().with_half(half);
        let (got, want) = attend(&gpu, [&q, &k, &v], &shape, (biased, sunk), seed);
        // Only weights are rounded: each to half a unit, of values of size one.
        let allowed = match half { Half::F16 => 6e-4, Half::Bf16 => 5e-3 };
        let worst = farthest(&got, &want);
        prop_assert!(worst <= allowed, "{worst}");
    }

    /// One token over keys and values that are kept in halves: all heads of a key together, in shares.
    #[test]
    fn attention_of_a_step(
        (past, room) in (prop_oneof![Just(0), 0..70usize, 0..700usize], select(vec![0usize, 3, 900])),
        (kv_heads, queries_per_head) in (1..3usize, prop_oneof![1..9usize, Just(16), Just(20)]),
        (dim, half) in (select(vec![64usize, 128]), select(vec![Half::F16, Half::Bf16])),
        window in windows(),
        softcap in option::of(1f32..30.0),
        (biased, sunk) in any::<(bool, bool)>(),
        seed in any::<u16>(),
    ) {
        let (heads, keys, seed) = (kv_heads * queries_per_head, past + 1, u32::from(seed));
        let shape = AttentionShape {
            heads, kv_heads, head_dim: dim, value_dim: dim, scale: 1.0 / (dim as f32).sqrt(),
            softcap, window, keys, texts: 1,
        };
        let q = rounded(half, values(1, heads * dim, seed) * 2.0);
        let k = rounded(half, values(keys, kv_heads * dim, seed + 1) * 2.0);
        let v = rounded(half, values(keys, kv_heads * dim, seed + 2));
        let gpu = gpu().with_half(half);
        let cached = [&k, &v].map(|rows| cache_of(&gpu, rows, room));
        let (got, want) = attend_to(&gpu, [&q, &k, &v], cached, &shape, (biased, sunk), seed);
        let allowed = match half { Half::F16 => 6e-4, Half::Bf16 => 5e-3 };
        let worst = farthest(&got, &want);
        prop_assert!(worst <= allowed, "{worst}");
    }

    /// Heads of any size over such a cache: nothing else is rounded.
    #[test]
    fn attention_over_halves(
        (tokens, past) in (select(vec![1usize, 2, 5]), 0..300usize),
        (head_dim, value_dim) in (select(vec![6usize, 80, 64]), select(vec![3usize, 48, 96])),
        half in select(vec![Half::F16, Half::Bf16]),
        seed in any::<u16>(),
    ) {
        let (keys, seed) = (past + tokens, u32::from(seed));
        let shape = AttentionShape {
            heads: 4, kv_heads: 2, head_dim, value_dim, scale: 0.3, softcap: None,
            window: Window::Full, keys, texts: 1,
        };
        let q = values(tokens, 4 * head_dim, seed);
        let k = rounded(half, values(keys, 2 * head_dim, seed + 1));
        let v = rounded(half, values(keys, 2 * value_dim, seed + 2));
        let gpu = gpu().with_half(half);
        let cached = [&k, &v].map(|rows| cache_of(&gpu, rows, 20));
        let (got, want) = attend_to(&gpu, [&q, &k, &v], cached, &shape, (false, false), seed);
        let outcome = close(&got, &want, 256);
        prop_assert!(outcome.is_ok(), "{outcome:?}");
    }

    #[test]
    fn norm(
        (rows, columns) in (1..12usize, 1..300usize),
        (segment, weights, biases) in any::<(usize, usize, usize)>(),
        (layer, weighted, biased) in any::<(bool, bool, bool)>(),
        seed in any::<u16>(),
    ) {
        let seed = u32::from(seed);
        let segment = divisor(columns, segment).max(2);
        let columns = columns.next_multiple_of(segment);
        let x = values(rows, columns, seed) * 8.0 + 0.5;
        let weight = values(1, divisor(columns, weights), seed + 1);
        let bias = values(1, divisor(columns, biases), seed + 2);
        let kind = if layer { NormKind::Layer } else { NormKind::Rms };
        let norm = Norm {
            kind, eps: 1e-2, segment,
            weight: weighted.then_some(&weight),
            bias: biased.then_some(&bias),
        };
        let want = Reference.norm(&x, &norm).unwrap();
        let (weight, bias) = (up(&weight), up(&bias));
        let norm = Norm {
            kind, eps: 1e-2, segment,
            weight: weighted.then_some(&weight),
            bias: biased.then_some(&bias),
        };
        let got = gpu().download(&gpu().norm(&up(&x), &norm).unwrap()).unwrap();
        let outcome = close(&got, &want, segment);
        prop_assert!(outcome.is_ok(), "{outcome:?}");
    }

    #[test]
    fn rope(
        (tokens, heads) in (1..8usize, 1..5usize),
        (offset, half, rest) in (0..9usize, 1..20usize, 0..9usize),
        interleaved in any::<bool>(),
    ) {
        let head_dim = offset + 2 * half + rest;
        let shape = RopeShape { head_dim, offset, interleaved };
        let mut want = values(tokens, heads * head_dim, 1);
        let angles = values(tokens, half, 2) * 3.0;
        let (cos, sin) = (angles.mapv(f32::cos), angles.mapv(f32::sin));
        let mut got = up(&want);
        Reference.rope(&mut want, &cos, &sin, shape).unwrap();
        gpu().rope(&mut got, &up(&cos), &up(&sin), shape).unwrap();
        prop_assert!(near(&gpu().download(&got).unwrap(), &want).is_ok());
    }
}

#[test]
fn pointwise() {
    let x = values(9, 37, 1) * 9.0;
    let y = values(9, 37, 2) * 3.0;
    for f in FUNCTIONS {
        let (mut want, mut got) = (x.clone(), up(&x));
        Reference.apply(&mut want, f).unwrap();
        gpu().apply(&mut got, f).unwrap();
        near(&gpu().download(&got).unwrap(), &want).unwrap_or_else(|e| panic!("{f:?}: {e}"));
    }
    let gates = FUNCTIONS.map(Gate::Of).into_iter();
    for f in gates.chain([Gate::Clamped { limit: 2.0, alpha: 1.702 }]) {
        let want = Reference.gated(&x, &y, f).unwrap();
        let got = gpu().gated(&up(&x), &up(&y), f).unwrap();
        near(&gpu().download(&got).unwrap(), &want).unwrap_or_else(|e| panic!("{f:?}: {e}"));
    }
    let (mut want, mut got) = (x.clone(), up(&x));
    Reference.add_assign(&mut want, &y).unwrap();
    gpu().add_assign(&mut got, &up(&y)).unwrap();
    let factors: Vec<f32> = (0..9).map(|r| r as f32 - 4.0).collect();
    Reference.scale_rows(&mut want, &factors).unwrap();
    gpu().scale_rows(&mut got, &factors).unwrap();
    assert_eq!(gpu().download(&got).unwrap(), want);
}

#[test]
fn a_nan_stays_one() {
    let x = Array2::from_elem((1, 3), f32::NAN);
    for f in FUNCTIONS {
        let mut got = up(&x);
        gpu().apply(&mut got, f).unwrap();
        assert!(gpu().download(&got).unwrap().iter().all(|v| v.is_nan()), "{f:?}");
    }
}

#[test]
fn rows_and_columns() {
    let (a, b) = (values(6, 10, 1), values(6, 5, 2));
    let index: Vec<u32> = (0..15).rev().chain([0, 12, 12]).collect();
    let want = Reference.columns(&[&a, &b], &index).unwrap();
    let got = gpu().columns(&[&up(&a), &up(&b)], &index).unwrap();
    assert_eq!(gpu().download(&got).unwrap(), want);

    // A run, runs of heads, the last one cut short, backwards, from the end, and one that is none.
    let every = |step: usize, run: std::ops::Range<u32>| {
        (0..15).step_by(step).flat_map(move |first| run.clone().map(move |c| first + c))
    };
    for index in [
        (7..13).collect(),
        every(5, 2..5).collect(),
        every(5, 2..5).take(7).collect(),
        every(3, 0..2).map(|c| 14 - c).collect(),
        vec![14, 14, 14],
        vec![2, 1, 0, 5],
        every(5, 1..3).chain([0]).collect(),
    ] as [Vec<u32>; 7]
    {
        let want = Reference.columns(&[&a, &b], &index).unwrap();
        let got = gpu().columns(&[&up(&a), &up(&b)], &index).unwrap();
        assert_eq!(gpu().download(&got).unwrap(), want, "{index:?}");
    }

    let rows = [5, 0, 0, 3];
    let picked = Reference.gather(&a, &rows).unwrap();
    let got = gpu().gather(&up(&a), &rows).unwrap();
    assert_eq!(gpu().download(&got).unwrap(), picked);

    let mut ties = values(5, 3000, 7);
    ties.row_mut(1).fill(-3.0);
    ties[(3, 2999)] = 2.0;
    ties[(3, 40)] = 2.0;
    assert_eq!(gpu().argmax(&up(&ties)).unwrap(), Reference.argmax(&ties).unwrap());
    assert_eq!(Reference.argmax(&ties).unwrap()[..][3], 40);

    let weights = [0.5, 2.0, -1.0, 3.0];
    let (mut want, mut got) = (a.clone(), up(&a));
    Reference.scatter_add(&mut want, &rows, &weights, &picked).unwrap();
    gpu().scatter_add(&mut got, &rows, &weights, &up(&picked)).unwrap();
    near(&gpu().download(&got).unwrap(), &want).unwrap();

    Reference.write_rows(&mut want, 2, &picked).unwrap();
    gpu().write_rows(&mut got, 2, &up(&picked)).unwrap();
    near(&gpu().download(&got).unwrap(), &want).unwrap();
}

#[test]
fn products_and_moments() {
    for (tokens, outs, ins) in [(1, 1, 1), (3, 70, 17), (130, 5, 66)] {
        let (x, w, bias) = (values(tokens, ins, 1), values(outs, ins, 2), values(1, outs, 3));
        let want = Reference.linear(&x, &w, Some(&bias)).unwrap();
        let got = gpu().linear(&up(&x), &up(&w), Some(&up(&bias))).unwrap();
        close(&gpu().download(&got).unwrap(), &want, ins).unwrap();

        let (start, native) = (values(ins, ins, 4), values(tokens, ins, 5));
        let (mut want, mut got) = (start.clone(), up(&start));
        Reference.accumulate_gram(&mut want, &x).unwrap();
        gpu().accumulate_gram(&mut got, &up(&x)).unwrap();
        Reference.accumulate_cross(&mut want, &native, &x).unwrap();
        gpu().accumulate_cross(&mut got, &up(&native), &up(&x)).unwrap();
        close(&gpu().download(&got).unwrap(), &want, tokens).unwrap();
    }
}
