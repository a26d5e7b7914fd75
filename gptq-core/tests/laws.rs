//! Laws that hold for every layer, on random ones.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::num::NonZeroUsize;

use gptq_core::{
    ActOrder, Bits, Damping, Error, GridSearch, GroupSize, Hessian, Portable, QuantConfig,
    ScaleDtype, layer_loss, quantize, round_to_nearest, solve,
};
use ndarray::{Array2, Axis, array, s};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Layer {
    w: Array2<f32>,
    x: Array2<f32>,
}

fn layer() -> impl Strategy<Value = Layer> {
    (1..20usize, 1..90usize, 1..4usize).prop_flat_map(|(rows, columns, times)| {
        let tokens = columns * times + 3;
        let values = |n| prop::collection::vec(-1.0..1.0f32, n);
        (values(rows * columns), values(tokens * columns)).prop_map(move |(w, x)| Layer {
            w: Array2::from_shape_vec((rows, columns), w).unwrap(),
            x: Array2::from_shape_vec((tokens, columns), x).unwrap(),
        })
    })
}

fn settings() -> impl Strategy<Value = QuantConfig> {
    let order =
        prop::sample::select(vec![ActOrder::Natural, ActOrder::DescAct, ActOrder::GroupAware]);
    let group = prop::option::of(1..70usize);
    (prop::sample::select(Bits::ALL.to_vec()), group, any::<bool>(), order, any::<bool>()).prop_map(
        |(bits, group, sym, act_order, static_groups)| {
            let group_size = match group.and_then(NonZeroUsize::new) {
                Some(n) => GroupSize::Columns(n),
                None => GroupSize::PerChannel,
            };
            let grouped_gar =
                act_order == ActOrder::GroupAware && group_size != GroupSize::PerChannel;
            let act_order = match act_order {
                ActOrder::GroupAware if !grouped_gar => ActOrder::Natural,
                other => other,
            };
            let static_groups = static_groups && act_order != ActOrder::GroupAware;
            QuantConfig { bits, group_size, sym, act_order, static_groups, ..Default::default() }
        },
    )
}

fn hessian(x: &Array2<f32>) -> Hessian {
    let mut h = Hessian::new(x.ncols());
    h.add_batch(x.view(), x.nrows() as u64).unwrap();
    h
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// The sum of squared column errors is the layer's loss, written as a trace.
    #[test]
    fn loss_is_the_quadratic_form(layer in layer(), config in settings()) {
        let h = hessian(&layer.x);
        let factor = h.clone().finish(&config, &Portable).unwrap();
        let (q, loss) = quantize(layer.w.view(), &factor, &config, &Portable).unwrap();
        let delta = (&layer.w - &q.dequantize()).mapv(f64::from);
        let mut damped = h.matrix().mapv(f64::from);
        let mean = damped.diag().mean().unwrap();
        damped.diag_mut().mapv_inplace(|d| d + factor.damp().percent * mean);
        let trace = (&delta.dot(&damped) * &delta).sum() / 2.0;
        prop_assert!((loss - trace).abs() <= 2e-3 * trace + 1e-7, "{loss} against {trace}");
        let again = layer_loss(layer.w.view(), q.dequantize().view(), &factor, &Portable).unwrap();
        prop_assert!((loss - again).abs() <= 1e-3 * loss + 1e-7, "{loss} against {again}");
    }

    /// The loss of any weights is that quadratic form, and that of rounding to nearest is reported.
    #[test]
    fn any_loss_is_the_quadratic_form(layer in layer(), config in settings()) {
        let h = hessian(&layer.x);
        let solved = solve(layer.w.view(), h.clone(), &config, &Portable).unwrap();
        let mut damped = h.matrix().mapv(f64::from);
        let mean = damped.diag().mean().unwrap();
        damped.diag_mut().mapv_inplace(|d| d + solved.damp.percent * mean);
        let nearest = round_to_nearest(layer.w.view(), &config).unwrap().dequantize();
        let factor = h.finish(&config, &Portable).unwrap();
        for q in [nearest.clone(), &layer.w * 0.5] {
            let delta = (&layer.w - &q).mapv(f64::from);
            let trace = (&delta.dot(&damped) * &delta).sum() / 2.0;
            let loss = layer_loss(layer.w.view(), q.view(), &factor, &Portable).unwrap();
            prop_assert!((loss - trace).abs() <= 1e-4 * trace + 1e-9, "{loss} against {trace}");
            if q == nearest {
                prop_assert!((solved.rtn_loss - loss).abs() <= 1e-6 * loss);
            }
        }
    }

    /// Uᵀ U is the inverse of the damped, ordered Hessian.
    #[test]
    fn factor_inverts(layer in layer(), config in settings()) {
        let h = hessian(&layer.x);
        let factor = h.clone().finish(&config, &Portable).unwrap();
        let perm = factor.perm();
        let m = h.matrix();
        let mean = m.diag().mean().unwrap();
        let damp = factor.damp().percent as f32 * mean;
        let damped = Array2::from_shape_fn(m.dim(), |(i, j)| {
            m[(perm[i], perm[j])] + if i == j { damp } else { 0.0 }
        });
        let product = factor.upper().t().dot(&factor.upper()).dot(&damped);
        let worst = (product - Array2::<f32>::eye(perm.len())).fold(0f32, |a, b| a.max(b.abs()));
        prop_assert!(worst < 1e-2, "{worst}");
    }

    /// Splitting the inputs into batches changes nothing but rounding.
    #[test]
    fn batches_do_not_matter(layer in layer(), cut in 0.0..1.0f64) {
        let at = (layer.x.nrows() as f64 * cut) as usize;
        let (first, second) = layer.x.view().split_at(ndarray::Axis(0), at);
        let mut split = Hessian::new(layer.x.ncols());
        split.add_batch(first, first.nrows() as u64).unwrap();
        split.add_batch(second, second.nrows() as u64).unwrap();
        let difference = split.matrix() - hessian(&layer.x).matrix();
        prop_assert!(difference.iter().all(|d| d.abs() < 1e-4));
    }

    /// Inside the range of its grid, a weight rounds to within half a step.
    #[test]
    fn rounding_is_nearest(layer in layer(), config in settings()) {
        let config = QuantConfig { sym: false, ..config };
        let q = round_to_nearest(layer.w.view(), &config).unwrap();
        let back = q.dequantize();
        for ((r, c), w) in layer.w.indexed_iter() {
            let step = q.scales[(r, q.g_idx[c] as usize)];
            // The zero point is rounded too, which can push an end half a step out.
            prop_assert!((w - back[(r, c)]).abs() <= step * 1.001);
        }
    }

    /// A permutation of output rows permutes the result and nothing else.
    #[test]
    fn rows_are_independent(layer in layer(), config in settings()) {
        let factor = hessian(&layer.x).finish(&config, &Portable).unwrap();
        let (all, _) = quantize(layer.w.view(), &factor, &config, &Portable).unwrap();
        let last = layer.w.nrows() - 1;
        let row = layer.w.slice(ndarray::s![last.., ..]);
        let (one, _) = quantize(row, &factor, &config, &Portable).unwrap();
        // Products over tiles of other widths may round a tie the other way.
        let different =
            one.codes.row(0).iter().zip(all.codes.row(last)).filter(|(a, b)| a != b).count();
        prop_assert!(different <= 1 + one.codes.len() / 50);
    }

    /// Fresh scales do not know where blocks end, and are those of blocks that end where groups do.
    #[test]
    fn fresh_scales_are_free_of_blocks(
        layer in layer(),
        config in settings(),
        blocks in (1..100usize, 1..100usize),
    ) {
        // The largest weight of a symmetric group lies halfway between two levels, a tie by design.
        let config = QuantConfig { sym: false, ..config };
        let factor = hessian(&layer.x).finish(&config, &Portable).unwrap();
        let size = config.group_size.columns(layer.w.ncols());
        let mut results = Vec::new();
        for (block, fresh_scales) in [(blocks.0, true), (blocks.1, true), (size, false)] {
            let block_size = NonZeroUsize::new(block).unwrap();
            let config = QuantConfig { block_size, fresh_scales, ..config };
            results.push(quantize(layer.w.view(), &factor, &config, &Portable).unwrap().0);
        }
        for other in &results[1..] {
            let mut tied = 0;
            for r in 0..layer.w.nrows() {
                // Products over other blocks may round a tie the other way, and what follows with it.
                if results[0].codes.row(r) != other.codes.row(r) {
                    tied += 1;
                    continue;
                }
                // A short group that updates nearly cancelled keeps the rounding of what it was.
                let largest = layer.w.row(r).fold(0f32, |m, w| m.max(w.abs()));
                let noise = 4e-6 * largest / f32::from(config.bits.maxq());
                for (a, b) in results[0].scales.row(r).iter().zip(other.scales.row(r)) {
                    prop_assert!((a - b).abs() <= 1e-5 * a + noise, "{a} and {b}");
                }
            }
            prop_assert!(tied <= 1 + layer.w.nrows() / 20, "{tied} of {}", layer.w.nrows());
        }
    }

    /// GPTAQ without a difference in the inputs, and FOEM and GPTAQ at 0, are GPTQ.
    #[test]
    fn nothing_to_make_up_for_is_gptq(layer in layer(), config in settings()) {
        let run = |hessian, config| solve(layer.w.view(), hessian, &config, &Portable).unwrap();
        let plain = run(hessian(&layer.x), config);
        let mut seen = Hessian::new(layer.x.ncols());
        seen.add_batch_with_native(layer.x.view(), layer.x.view(), layer.x.nrows() as u64).unwrap();
        let same = run(seen.clone(), QuantConfig { gptaq_alpha: 0.5, ..config });
        prop_assert_eq!(&same.quantized, &plain.quantized);
        prop_assert_eq!(same.loss.to_bits(), plain.loss.to_bits());
        prop_assert_eq!(&run(seen, config).quantized, &plain.quantized);
    }

    /// P is what its definition says, in whatever order.
    #[test]
    fn the_shift_is_its_definition(layer in layer(), config in settings(), seed in 1..99usize) {
        let config = QuantConfig { gptaq_alpha: 0.3, ..config };
        let native = Array2::from_shape_fn(layer.x.dim(), |(t, c)| {
            layer.x[(t, c)] + ((t * 31 + c * seed) % 17) as f32 / 40.0
        });
        let mut h = Hessian::new(layer.x.ncols());
        h.add_batch_with_native(layer.x.view(), native.view(), layer.x.nrows() as u64).unwrap();
        let d = h.cross().unwrap();
        let factor = h.finish(&config, &Portable).unwrap();
        let (u, perm) = (factor.upper(), factor.perm());
        let mut t = d.select(Axis(0), perm).select(Axis(1), perm).dot(&u.t());
        t.indexed_iter_mut().filter(|((i, j), _)| i >= j).for_each(|(_, v)| *v = 0.0);
        let want = t.dot(&u) * 0.3;
        let largest = want.fold(0f32, |m, v| m.max(v.abs()));
        let worst = (&want - &factor.shift().unwrap()).fold(0f32, |m, v| m.max(v.abs()));
        prop_assert!(worst <= 1e-5 * largest + 1e-9, "{worst} of {largest}");
    }

    /// Scales rounded before quantizing are exactly what half precision stores.
    #[test]
    fn half_precision_scales_are_exact(layer in layer(), config in settings()) {
        let config = QuantConfig { scale_dtype: ScaleDtype::F16, ..config };
        let solved = solve(layer.w.view(), hessian(&layer.x), &config, &Portable).unwrap();
        for &scale in &solved.quantized.scales {
            prop_assert_eq!(half::f16::from_f32(scale).to_f32(), scale);
        }
    }

    /// The search returns the best of its candidates, each written out here in f64.
    #[test]
    fn shrunken_grids_err_least(layer in layer(), config in settings(), both_zeros in any::<bool>()) {
        let mse = Some(GridSearch { both_zeros, ..Default::default() });
        let config = QuantConfig {
            mse,
            group_size: GroupSize::PerChannel,
            act_order: ActOrder::Natural,
            ..config
        };
        let found = round_to_nearest(layer.w.view(), &config).unwrap().dequantize();
        let maxq = f64::from(config.bits.maxq());
        for (row, found) in layer.w.rows().into_iter().zip(found.rows()) {
            let row: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
            let low = row.iter().fold(0f64, |m, &x| m.min(x));
            let high = row.iter().fold(0f64, |m, &x| m.max(x));
            let (low, high) = match (config.sym, low < 0.0) {
                (false, _) => (low, high),
                (true, true) => (-high.max(-low), high.max(-low)),
                (true, false) => (0.0, high),
            };
            let error = |q: &dyn Fn(f64) -> f64| -> f64 {
                row.iter().map(|&x| (q(x) - x).abs().powf(2.4)).sum()
            };
            let mut least = f64::INFINITY;
            for step in 0..80 {
                let share = 1.0 - f64::from(step) / 100.0;
                let scale = share * (high - low) / maxq;
                let exact = -share * low / scale;
                let mut zeros = vec![exact.round_ties_even()];
                if config.sym {
                    zeros = vec![(maxq + 1.0) / 2.0];
                } else if both_zeros && config.bits == Bits::B2 {
                    zeros = vec![exact.floor(), exact.ceil()];
                }
                for zero in zeros {
                    let q = |x: f64| {
                        scale * (((x / scale).round_ties_even() + zero).clamp(0.0, maxq) - zero)
                    };
                    least = least.min(error(&q));
                }
            }
            let ours: f64 =
                row.iter().zip(found).map(|(x, &q)| (f64::from(q) - x).abs().powf(2.4)).sum();
            // The end of a symmetric range is a tie, which f32 and f64 may round apart.
            let slack = if config.sym { 0.02 } else { 1e-3 };
            prop_assert!(ours <= least * (1.0 + slack) + 1e-9, "{ours} and {least}");
        }
    }

    /// Layers bound for the v1 format never have a zero point of 0, and still reach both ends.
    #[test]
    fn raised_zero_points_still_cover_the_range(layer in layer(), config in settings()) {
        let config = QuantConfig { sym: false, min_zero: 1, ..config };
        let q = round_to_nearest(layer.w.view(), &config).unwrap();
        prop_assert!(q.zeros.iter().all(|&z| z >= 1));
        let back = q.dequantize();
        for ((r, c), w) in layer.w.indexed_iter() {
            prop_assert!((w - back[(r, c)]).abs() <= q.scales[(r, q.g_idx[c] as usize)] * 1.001);
        }
    }
}

#[test]
fn same_bytes_at_any_thread_count() {
    let x = Array2::from_shape_fn((900, 300), |(t, c)| {
        ((t * 7919 + c * 104_729 + t * c * 13) % 2003) as f32 / 1001.0 - 1.0
    });
    let w = Array2::from_shape_fn((210, 300), |(r, c)| {
        ((r * 31 + c * 17 + r * c * 7) % 1009) as f32 / 504.0 - 1.0
    });
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| solve(w.view(), hessian(&x), &QuantConfig::default(), &Portable).unwrap())
    };
    let one = run(1);
    for threads in [2, 3, 8] {
        let other = run(threads);
        assert_eq!(one.quantized, other.quantized, "{threads} threads");
        assert_eq!(one.loss.to_bits(), other.loss.to_bits(), "{threads} threads");
    }
}

#[test]
fn dead_inputs_get_zero_weights() {
    let mut x = Array2::from_shape_fn((40, 6), |(t, c)| ((t * 5 + c * 3) % 7) as f32 - 3.0);
    x.column_mut(2).fill(0.0);
    let w = Array2::from_elem((3, 6), 0.7);
    let config = QuantConfig { act_order: ActOrder::DescAct, ..Default::default() };
    let solved = solve(w.view(), hessian(&x), &config, &Portable).unwrap();
    assert_eq!(solved.dead_columns, 1);
    assert!(solved.quantized.dequantize().column(2).iter().all(|&v| v == 0.0));

    // Nor does a weight there cost anything, whatever it is.
    let factor = hessian(&x).finish(&config, &Portable).unwrap();
    let mut other = w.clone();
    other.column_mut(2).fill(-5.0);
    assert_eq!(layer_loss(w.view(), other.view(), &factor, &Portable).unwrap(), 0.0);
}

#[test]
fn bad_input_is_named() {
    let x = Array2::from_shape_fn((40, 4), |(t, c)| ((t * 5 + c * 3) % 7) as f32 - 3.0);
    let config = QuantConfig::default();
    let good = Array2::<f32>::ones((2, 4));

    let mut nan = good.clone();
    nan[(1, 3)] = f32::NAN;
    let error = solve(nan.view(), hessian(&x), &config, &Portable).unwrap_err();
    assert!(matches!(error, Error::NotFinite { what: "weight", row: 1, column: 3, .. }), "{error}");

    let mut infinite = x.clone();
    infinite[(0, 1)] = f32::INFINITY;
    let error = solve(good.view(), hessian(&infinite), &config, &Portable).unwrap_err();
    assert!(matches!(error, Error::NotFinite { what: "hessian", .. }), "{error}");

    let error = solve(good.view(), Hessian::new(4), &config, &Portable).unwrap_err();
    assert_eq!(error, Error::NoInput);

    let narrow = Array2::<f32>::ones((2, 3));
    let error = solve(narrow.view(), hessian(&x), &config, &Portable).unwrap_err();
    assert!(matches!(error, Error::Shape { found: [2, 3], expected: [2, 4], .. }), "{error}");

    let huge = array![[3e38f32, -3e38, 0.0, 1.0]];
    let half = QuantConfig { scale_dtype: ScaleDtype::F16, ..config };
    let error = solve(huge.view(), hessian(&x), &half, &Portable).unwrap_err();
    assert!(matches!(error, Error::ScaleOverflow { row: 0, .. }), "{error}");

    let alpha = QuantConfig { gptaq_alpha: 0.25, ..config };
    let error = solve(good.view(), hessian(&x), &alpha, &Portable).unwrap_err();
    assert!(matches!(&error, Error::Config { message } if message.contains("native")), "{error}");
    assert!(hessian(&x).with_cross(Array2::zeros((5, 5))).is_err());
    let error = hessian(&x).add_batch_with_native(x.view(), x.slice(s![1.., ..]), 40).unwrap_err();
    assert!(matches!(error, Error::Shape { found: [39, 4], expected: [40, 4], .. }), "{error}");

    let mut other = Hessian::new(5);
    assert!(other.add_batch(x.view(), 1).is_err() && other.merge(&hessian(&x)).is_err());
}

#[test]
fn contradictions_are_refused() {
    let gar_rows = QuantConfig { group_size: GroupSize::PerChannel, ..Default::default() };
    let gar_static = QuantConfig { static_groups: true, ..Default::default() };
    // 0.01 + 1e-18 is 0.01 again: such a run would never end.
    let damping = Damping { percent: 0.01, auto_increment: 1e-18 };
    let endless = QuantConfig { damping, ..Default::default() };
    let below = QuantConfig { gptaq_alpha: -0.1, ..Default::default() };
    let nan = QuantConfig { gptaq_alpha: f32::NAN, ..Default::default() };
    let whole = QuantConfig { foem_beta: 1.0, ..Default::default() };
    for config in [gar_rows, gar_static, endless, below, nan, whole] {
        assert!(matches!(config.validate(), Err(Error::Config { .. })));
    }
    assert!(Bits::try_from(5).is_err());
    assert!(GroupSize::from_file(0).is_err() && GroupSize::from_file(-2).is_err());
}

#[cfg(feature = "lapack")]
#[test]
fn lapack_gives_the_same_factor() {
    use gptq_core::Lapack;
    let x = Array2::from_shape_fn((500, 200), |(t, c)| {
        ((t * 7919 + c * 104_729 + t * c * 13) % 2003) as f32 / 1001.0 - 1.0
    });
    let config = QuantConfig::default();
    let ours = hessian(&x).finish(&config, &Portable).unwrap();
    let theirs = hessian(&x).finish(&config, &Lapack).unwrap();
    let largest = ours.upper().fold(0f32, |m, v| m.max(v.abs()));
    let worst = (&ours.upper() - &theirs.upper()).fold(0f32, |m, v| m.max(v.abs()));
    assert!(worst <= 1e-4 * largest, "{worst} of {largest}");

    let indefinite = Hessian::from_matrix(array![[1., 2.5], [2.5, 1.]]).unwrap();
    let whole =
        QuantConfig { group_size: GroupSize::PerChannel, act_order: ActOrder::Natural, ..config };
    let error = indefinite.finish(&whole, &Lapack).unwrap_err();
    assert!(matches!(error, Error::NotPositiveDefinite { column: 0, .. }), "{error}");
}
