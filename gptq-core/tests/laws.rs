//! Laws that hold for every layer, on random ones.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::num::NonZeroUsize;

use gptq_core::{
    ActOrder, Bits, Damping, Error, GroupSize, Hessian, Portable, QuantConfig, ScaleDtype,
    layer_loss, quantize, round_to_nearest, solve,
};
use ndarray::{Array2, array};
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

    /// Scales rounded before quantizing are exactly what half precision stores.
    #[test]
    fn half_precision_scales_are_exact(layer in layer(), config in settings()) {
        let config = QuantConfig { scale_dtype: ScaleDtype::F16, ..config };
        let solved = solve(layer.w.view(), hessian(&layer.x), &config, &Portable).unwrap();
        for &scale in &solved.quantized.scales {
            prop_assert_eq!(half::f16::from_f32(scale).to_f32(), scale);
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
    for config in [gar_rows, gar_static, endless] {
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
