//! Laws that the operations of a forward pass keep, and arithmetic that knows nothing of them: for
//! the plain definition and for the fast one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod common;

use common::{close, values};
use gptq_core::{
    AttentionShape, Backend, Gate, Norm, NormKind, Pointwise, Reference, RopeShape, ScoreTerms,
    Window,
};
use gptq_kernels::CpuBackend;
use ndarray::{Array2, Axis, concatenate, s};
use proptest::{option, prelude::*};

type Any<'a> = &'a dyn Backend<Tensor = Array2<f32>>;

fn both(check: impl Fn(Any<'_>)) {
    check(&Reference);
    check(&CpuBackend::new());
}

/// One head per head of keys.
fn shape(heads: usize, head_dim: usize, value_dim: usize, keys: usize) -> AttentionShape {
    AttentionShape {
        heads,
        kv_heads: heads,
        head_dim,
        value_dim,
        scale: 0.4,
        softcap: None,
        window: Window::Full,
        keys,
        texts: 1,
    }
}

/// Attention as sums over pairs of positions, in f64, for head h of keys and values.
fn by_pairs(
    (q, k, v): (&Array2<f32>, &Array2<f32>, &Array2<f32>),
    shape: &AttentionShape,
    (bias, sinks): (&Array2<f32>, &Array2<f32>),
) -> Array2<f32> {
    let (d, before) = (shape.head_dim, shape.keys - q.nrows());
    let per_kv = shape.heads / shape.kv_heads;
    Array2::from_shape_fn((q.nrows(), shape.heads * shape.value_dim), |(t, c)| {
        let (h, position) = (c / shape.value_dim, before + t);
        let column = h / per_kv * shape.value_dim + c % shape.value_dim;
        let mut total = f64::from(sinks[(0, h)]).exp();
        let mut mixed = 0.0;
        for key in 0..=position {
            let sees = match shape.window {
                Window::Full => true,
                Window::Sliding(n) => position - key < n,
                Window::Chunked(n) => position / n == key / n,
            };
            let product =
                |i| f64::from(q[(t, h * d + i)]) * f64::from(k[(key, h / per_kv * d + i)]);
            let mut score = (0..d).map(product).sum::<f64>() * f64::from(shape.scale);
            if let Some(cap) = shape.softcap.map(f64::from) {
                score = cap * (score / cap).tanh();
            }
            if sees {
                let weight = (score + f64::from(bias[(h, key)])).exp();
                total += weight;
                mixed += weight * f64::from(v[(key, column)]);
            }
        }
        (mixed / total) as f32
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn attention_is_a_sum_over_pairs(
        (tokens, past) in (1..40usize, 0..40usize),
        (kv_heads, per_kv) in (1..3usize, 1..4usize),
        (head_dim, value_dim) in (1..9usize, 1..9usize),
        (kind, n) in (0..3usize, 1..50usize),
        softcap in option::of(1f32..10.0),
        seed in any::<u16>(),
    ) {
        let (heads, keys, seed) = (kv_heads * per_kv, past + tokens, u32::from(seed));
        let window = [Window::Full, Window::Sliding(n), Window::Chunked(n)][kind];
        let scale = 0.7;
        let shape =
            AttentionShape { heads, kv_heads, head_dim, value_dim, scale, softcap, window, keys, texts: 1 };
        let q = values(tokens, heads * head_dim, seed) * 2.0;
        let k = values(keys, kv_heads * head_dim, seed + 1) * 2.0;
        let v = values(keys, kv_heads * value_dim, seed + 2);
        let (bias, sinks) = (values(heads, keys, seed + 3), values(1, heads, seed + 4) * 4.0);
        let want = by_pairs((&q, &k, &v), &shape, (&bias, &sinks));
        let terms = ScoreTerms { key_bias: Some(&bias), sinks: Some(&sinks) };
        let backends: [Any<'_>; 2] = [&Reference, &CpuBackend::new()];
        for backend in backends {
            let got = backend.attention(&q, &k, &v, &shape, terms).unwrap();
            // Scores of size 20, as in the other test of attention.
            prop_assert_eq!(close(&got, &want, 256), Ok(()));
        }
    }

    #[test]
    fn scattering_is_a_product_with_a_selection(
        (rows, columns) in (1..20usize, 1..40usize),
        targets in prop::collection::vec(any::<u32>(), 0..40),
        seed in any::<u16>(),
    ) {
        let seed = u32::from(seed);
        let targets: Vec<u32> = targets.iter().map(|t| t % rows as u32).collect();
        let weights = values(1, targets.len(), seed).into_raw_vec_and_offset().0;
        let (x, y) = (values(rows, columns, seed + 1), values(targets.len(), columns, seed + 2));
        let mut selection = Array2::<f32>::zeros((rows, targets.len()));
        for (i, (&row, &weight)) in targets.iter().zip(&weights).enumerate() {
            selection[(row as usize, i)] = weight;
        }
        let want = &x + &selection.dot(&y);
        let backends: [Any<'_>; 2] = [&Reference, &CpuBackend::new()];
        for backend in backends {
            let mut got = x.clone();
            backend.scatter_add(&mut got, &targets, &weights, &y).unwrap();
            prop_assert_eq!(close(&got, &want, 40), Ok(()));
        }
    }

    #[test]
    fn columns_of_columns_are_columns(
        (left, right) in (1..40usize, 1..40usize),
        first in prop::collection::vec(any::<u32>(), 1..60),
        second in prop::collection::vec(any::<u32>(), 0..60),
    ) {
        let (x, y) = (values(5, left, 1), values(5, right, 2));
        let first: Vec<u32> = first.iter().map(|c| c % (left + right) as u32).collect();
        let second: Vec<u32> = second.iter().map(|c| c % first.len() as u32).collect();
        let composed: Vec<u32> = second.iter().map(|&c| first[c as usize]).collect();
        let backends: [Any<'_>; 2] = [&Reference, &CpuBackend::new()];
        for backend in backends {
            let step = backend.columns(&[&x, &y], &first).unwrap();
            prop_assert_eq!(
                backend.columns(&[&step], &second).unwrap(),
                backend.columns(&[&x, &y], &composed).unwrap()
            );
            let all: Vec<u32> = (0..(left + right) as u32).collect();
            prop_assert_eq!(
                backend.columns(&[&x, &y], &all).unwrap(),
                concatenate![Axis(1), x, y]
            );
        }
    }
}

#[test]
fn a_window_as_wide_as_the_text_is_full() {
    both(|backend| {
        let (q, k, v) = (values(70, 12, 1), values(90, 12, 2), values(90, 10, 3));
        let full = shape(2, 6, 5, 90);
        let want = backend.attention(&q, &k, &v, &full, ScoreTerms::default()).unwrap();
        for window in [Window::Sliding(90), Window::Chunked(90), Window::Sliding(usize::MAX)] {
            let shape = AttentionShape { window, ..full };
            let got = backend.attention(&q, &k, &v, &shape, ScoreTerms::default()).unwrap();
            assert_eq!(got, want, "{window:?}");
        }
        let own = AttentionShape { window: Window::Sliding(1), ..full };
        let got = backend.attention(&q, &k, &v, &own, ScoreTerms::default()).unwrap();
        close(&got, &v.slice(s![20.., ..]).to_owned(), 4).unwrap();
    });
}

#[test]
fn chunks_do_not_see_each_other() {
    both(|backend| {
        let (q, k, v) = (values(200, 12, 4), values(200, 12, 5), values(200, 10, 6));
        let whole = AttentionShape { window: Window::Chunked(30), ..shape(2, 6, 5, 200) };
        let got = backend.attention(&q, &k, &v, &whole, ScoreTerms::default()).unwrap();
        for start in (0..200).step_by(30) {
            let rows = s![start..(start + 30).min(200), ..];
            let alone = shape(2, 6, 5, 30.min(200 - start));
            let part = |a: &Array2<f32>| a.slice(rows).to_owned();
            let want = backend
                .attention(&part(&q), &part(&k), &part(&v), &alone, ScoreTerms::default())
                .unwrap();
            close(&part(&got), &want, 64).unwrap();
        }
    });
}

#[test]
fn terms_that_say_nothing_change_nothing() {
    both(|backend| {
        let (q, k, v) = (values(70, 12, 7), values(90, 12, 8), values(90, 10, 9));
        let shape = shape(2, 6, 5, 90);
        let want = backend.attention(&q, &k, &v, &shape, ScoreTerms::default()).unwrap();
        let sinks = Array2::from_elem((1, 2), -1e30);
        let terms = ScoreTerms { sinks: Some(&sinks), key_bias: None };
        assert_eq!(backend.attention(&q, &k, &v, &shape, terms).unwrap(), want);
        let bias = Array2::from_shape_fn((2, 90), |(h, _)| [3.0, -5.0][h]);
        let terms = ScoreTerms { key_bias: Some(&bias), sinks: None };
        close(&backend.attention(&q, &k, &v, &shape, terms).unwrap(), &want, 64).unwrap();
        // A cap far above the scores; tanh loses their cube.
        let capped = AttentionShape { softcap: Some(1e4), ..shape };
        let got = backend.attention(&q, &k, &v, &capped, ScoreTerms::default()).unwrap();
        close(&got, &want, 64).unwrap();
    });
}

#[test]
fn norms_have_the_moments_they_promise() {
    both(|backend| {
        let x = values(9, 120, 10) * 5.0 + 3.0;
        for segment in [120, 40, 8] {
            let layer = Norm { kind: NormKind::Layer, eps: 0.0, segment, weight: None, bias: None };
            let rms = Norm { kind: NormKind::Rms, ..layer };
            let (y, z) = (backend.norm(&x, &layer).unwrap(), backend.norm(&x, &rms).unwrap());
            let n = segment as f32;
            for row in y.rows() {
                for segment in row.exact_chunks(segment) {
                    assert!((segment.sum() / n).abs() < 1e-6);
                    assert!((segment.dot(&segment) / n - 1.0).abs() < 2e-6);
                }
            }
            for row in z.rows() {
                for segment in row.exact_chunks(segment) {
                    assert!((segment.dot(&segment) / n - 1.0).abs() < 2e-6);
                }
            }
            let moved = backend.norm(&(&x * 3.0 - 7.0), &layer).unwrap();
            close(&moved, &y, 100).unwrap();
        }
    });
}

#[test]
fn a_segment_is_a_row_of_its_own() {
    both(|backend| {
        let (x, weight, bias) = (values(6, 40, 11), values(1, 8, 12), values(1, 8, 13));
        for kind in [NormKind::Rms, NormKind::Layer] {
            let norm =
                Norm { kind, eps: 1e-5, segment: 8, weight: Some(&weight), bias: Some(&bias) };
            let rows = x.to_shape((30, 8)).unwrap().into_owned();
            let want = backend.norm(&rows, &norm).unwrap();
            let got = backend.norm(&x, &norm).unwrap();
            assert_eq!(got.to_shape((30, 8)).unwrap(), want);
            // The same weight, said once for every head.
            let wide = concatenate![Axis(1), weight, weight, weight, weight, weight];
            assert_eq!(backend.norm(&x, &Norm { weight: Some(&wide), ..norm }).unwrap(), got);
        }
    });
}

/// Interleaved pairs are neighbours; sorted into firsts and seconds they are halves.
#[test]
fn both_styles_of_rope_are_one_up_to_the_order_of_channels() {
    let (head_dim, half, offset, heads) = (10u32, 3u32, 2u32, 2u32);
    let angles = values(5, 3, 14) * 3.0;
    let (cos, sin) = (angles.mapv(f32::cos), angles.mapv(f32::sin));
    let x = values(5, 20, 15);
    let index: Vec<u32> = (0..heads)
        .flat_map(|h| {
            (0..head_dim).map(move |c| match c.wrapping_sub(offset) {
                i if i < half => h * head_dim + offset + 2 * i,
                i if i < 2 * half => h * head_dim + offset + 2 * (i - half) + 1,
                _ => h * head_dim + c,
            })
        })
        .collect();
    let halves = RopeShape { head_dim: 10, offset: 2, interleaved: false };
    both(|backend| {
        let mut want = backend.columns(&[&x], &index).unwrap();
        backend.rope(&mut want, &cos, &sin, halves).unwrap();
        let mut y = x.clone();
        backend.rope(&mut y, &cos, &sin, RopeShape { interleaved: true, ..halves }).unwrap();
        close(&backend.columns(&[&y], &index).unwrap(), &want, 4).unwrap();
        // A rotation keeps lengths, and what is not rotated.
        for (before, after) in x.rows().into_iter().zip(y.rows()) {
            assert!((before.dot(&before) - after.dot(&after)).abs() < 1e-5);
        }
        for still in [0, 1, 8, 9, 10, 11, 18, 19] {
            assert_eq!(x.column(still), y.column(still));
        }
    });
}

#[test]
fn activations_at_known_values() {
    both(|backend| {
        for (f, x, want) in [
            (Pointwise::Gelu, 1.0, 0.841_344_746_1),
            (Pointwise::Gelu, -2.0, -0.045_500_263_9),
            (Pointwise::Gelu, -5.0, -1.433_257_86e-6),
            (Pointwise::GeluTanh, 1.0, 0.841_191_990_6),
            (Pointwise::Silu, 1.0, 0.731_058_578_6),
            (Pointwise::SoftCap(30.0), 1e-3, 9.999_999_996_3e-4),
            (Pointwise::SoftCap(30.0), 30.0, 22.847_824_678),
            (Pointwise::Clamp(2.0), -3.0, -2.0),
            (Pointwise::Relu, -3.0, 0.0),
            (Pointwise::Relu, 3.0, 3.0),
            (Pointwise::Scale(-0.5), 3.0, -1.5),
        ] {
            // Wide enough for every vector length and a remainder.
            let mut y = Array2::from_elem((1, 37), x);
            backend.apply(&mut y, f).unwrap();
            for &y in &y {
                let error = (f64::from(y) - want).abs();
                assert!(error <= 3e-7 * f64::abs(want), "{f:?} of {x}: {y}, not {want}");
            }
        }
    });
}

/// `x · s(x)` with `s(x) + s(−x) = 1`.
#[test]
fn activations_reflect() {
    both(|backend| {
        let x = values(3, 500, 16) * 9.0;
        for f in [Pointwise::Gelu, Pointwise::GeluTanh, Pointwise::Silu] {
            let (mut y, mut z) = (x.clone(), -&x);
            backend.apply(&mut y, f).unwrap();
            backend.apply(&mut z, f).unwrap();
            close(&(y - z), &x, 4).unwrap();
        }
    });
}

#[test]
fn a_gate_is_its_function_times_up() {
    both(|backend| {
        let (x, up) = (values(3, 1500, 17) * 6.0, values(3, 1500, 18) * 6.0);
        for f in [Pointwise::Gelu, Pointwise::Silu, Pointwise::Relu, Pointwise::GeluTanh] {
            let mut y = x.clone();
            backend.apply(&mut y, f).unwrap();
            close(&backend.gated(&x, &up, Gate::Of(f)).unwrap(), &(y * &up), 4).unwrap();
        }
        // Far bounds and a slope of 1: SwiGLU with one added to up.
        let clamped = Gate::Clamped { limit: 100.0, alpha: 1.0 };
        let want = backend.gated(&x, &(&up + 1.0), Gate::Of(Pointwise::Silu)).unwrap();
        close(&backend.gated(&x, &up, clamped).unwrap(), &want, 4).unwrap();
        // Beyond the bounds nothing changes any more.
        let narrow = Gate::Clamped { limit: 2.0, alpha: 1.702 };
        let cut = x.mapv(|g| g.min(2.0));
        let want = backend.gated(&cut, &up.mapv(|u| u.clamp(-2.0, 2.0)), narrow).unwrap();
        assert_eq!(backend.gated(&x, &up, narrow).unwrap(), want);
    });
}

#[test]
fn rows_are_scaled_by_a_diagonal() {
    both(|backend| {
        let (x, factors) = (values(7, 30, 19), values(1, 7, 20));
        let want = Array2::from_diag(&factors.row(0)).dot(&x);
        let mut got = x.clone();
        backend.scale_rows(&mut got, factors.row(0).as_slice().unwrap()).unwrap();
        close(&got, &want, 1).unwrap();
    });
}
