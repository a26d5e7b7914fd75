//! OBQ and OBS against a solver that solves every step's least squares afresh, and their laws.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failing test panics")]

use std::num::NonZeroUsize;

use gptq_core::{
    ActOrder, Bits, Error, Grid, GroupSize, Hessian, InverseFactor, Order, Portable, QuantConfig,
    layer_loss, obq, obs_prune, quantize, round_to_nearest,
};
use ndarray::{Array1, Array2, Axis, array};
use proptest::prelude::*;

/// One row by brute force: nothing is updated, everything follows from the original weights `w`,
/// the damped Hessian `h` and the deviations fixed so far.
struct Brute<'a> {
    h: &'a Array2<f64>,
    w: Vec<f64>,
    /// Column and deviation of what is fixed.
    fixed: Vec<(usize, f64)>,
    /// How far every decision was from going the other way, in steps of the grid or as a share of
    /// the cost.
    margin: f64,
}

impl<'a> Brute<'a> {
    fn new(h: &'a Array2<f64>, w: impl IntoIterator<Item = f32>) -> Self {
        let w = w.into_iter().map(f64::from).collect();
        Self { h, w, fixed: Vec::new(), margin: f64::INFINITY }
    }

    /// Column, weight and diagonal of the inverse Hessian of everything open:
    /// `w[F] − H[F, F]⁻¹ H[F, E] δ[E]`.
    fn open(&self) -> Vec<(usize, f64, f64)> {
        let open: Vec<usize> =
            (0..self.w.len()).filter(|c| self.fixed.iter().all(|(e, _)| e != c)).collect();
        let inverse = invert(&self.h.select(Axis(0), &open).select(Axis(1), &open));
        let pull = |&f: &usize| self.fixed.iter().map(|&(e, d)| self.h[(f, e)] * d).sum::<f64>();
        let moved = inverse.dot(&open.iter().map(pull).collect::<Array1<f64>>());
        let weight = |(i, &c): (usize, &usize)| (c, self.w[c] - moved[i], inverse[(i, i)]);
        open.iter().enumerate().map(weight).collect()
    }

    fn fix(&mut self, column: usize, value: f64) {
        self.fixed.push((column, value - self.w[column]));
    }

    /// The cheapest of what is open, given what each would be fixed at.
    fn cheapest(&mut self, open: &[(usize, f64, f64)], values: &[f64]) -> usize {
        let cost = |i: usize| (open[i].1 - values[i]).powi(2) / open[i].2;
        let mut order: Vec<usize> = (0..open.len()).collect();
        order.sort_by(|&a, &b| cost(a).total_cmp(&cost(b)));
        if let [first, second, ..] = order[..]
            && cost(second) > 0.0
        {
            self.margin = self.margin.min(1.0 - cost(first) / cost(second));
        }
        order[0]
    }

    /// The row with everything fixed, and its loss.
    fn finish(&self) -> (Vec<f64>, f64) {
        let mut deviation = Array1::zeros(self.w.len());
        let mut row = vec![0.0; self.w.len()];
        for (c, w, _) in self.open() {
            (row[c], deviation[c]) = (w, w - self.w[c]);
        }
        for &(c, d) in &self.fixed {
            (row[c], deviation[c]) = (self.w[c] + d, d);
        }
        (row, deviation.dot(&self.h.dot(&deviation)) / 2.0)
    }

    fn obq(&mut self, grids: &[Grid], order: Option<&[usize]>) {
        for step in 0..self.w.len() {
            let open = self.open();
            let nearest = |&(c, w, _): &(usize, f64, f64)| {
                f64::from(grids[c].decode(grids[c].encode(w as f32)))
            };
            let values: Vec<f64> = open.iter().map(nearest).collect();
            let index = match order {
                Some(order) => open.iter().position(|o| o.0 == order[step]).unwrap(),
                None => {
                    let steps = |i: usize| {
                        (open[i].1 - values[i]).abs() / f64::from(grids[open[i].0].scale)
                    };
                    let mut by_steps: Vec<usize> = (0..open.len()).collect();
                    by_steps.sort_by(|&a, &b| steps(b).total_cmp(&steps(a)));
                    let outliers = by_steps.iter().filter(|&&i| steps(i) > 0.501).count();
                    for &i in &by_steps {
                        self.margin = self.margin.min((steps(i) - 0.501).abs() * 10.0);
                    }
                    if outliers > 1 {
                        self.margin = self.margin.min(steps(by_steps[0]) - steps(by_steps[1]));
                    }
                    if outliers > 0 { by_steps[0] } else { self.cheapest(&open, &values) }
                }
            };
            let (column, w, _) = open[index];
            let levels = w / f64::from(grids[column].scale);
            self.margin = self.margin.min((levels - levels.floor() - 0.5).abs());
            self.fix(column, values[index]);
        }
    }
}

/// Gauss and Jordan, with pivoting.
fn invert(a: &Array2<f64>) -> Array2<f64> {
    let n = a.nrows();
    let mut left = a.clone();
    let mut right = Array2::eye(n);
    for c in 0..n {
        let pivot = (c..n).max_by(|&i, &j| left[(i, c)].abs().total_cmp(&left[(j, c)].abs()));
        for m in [&mut left, &mut right] {
            for k in 0..n {
                m.swap((c, k), (pivot.unwrap(), k));
            }
        }
        let scale = left[(c, c)];
        for m in [&mut left, &mut right] {
            m.row_mut(c).mapv_inplace(|v| v / scale);
        }
        for r in (0..n).filter(|&r| r != c) {
            let share = left[(r, c)];
            for m in [&mut left, &mut right] {
                let pivot = m.row(c).to_owned();
                m.row_mut(r).scaled_add(-share, &pivot);
            }
        }
    }
    right
}

#[derive(Clone, Debug)]
struct Layer {
    w: Array2<f32>,
    x: Array2<f32>,
}

impl Layer {
    fn hessian(&self) -> Hessian {
        let mut h = Hessian::new(self.x.ncols());
        h.add_batch(self.x.view(), self.x.nrows() as u64).unwrap();
        h
    }

    fn factor(&self, config: &QuantConfig) -> InverseFactor {
        self.hessian().finish(config, &Portable).unwrap()
    }

    /// H with its dead columns repaired and damped by the default share.
    fn damped(&self) -> Array2<f64> {
        let mut h = self.hessian().matrix().mapv(f64::from);
        h.diag_mut().mapv_inplace(|d| if d == 0.0 { 1.0 } else { d });
        let mean = h.diag().mean().unwrap();
        h.diag_mut().mapv_inplace(|d| d + 0.01 * mean);
        h
    }
}

/// Random weights, and inputs that share a common signal. `dead` inputs never fire; their weights
/// are zero, so that all methods see the same.
fn layers(dead: bool) -> impl Strategy<Value = Layer> {
    (1..4usize, 1..13usize, -1.0..1.0f32).prop_flat_map(move |(rows, columns, common)| {
        let tokens = 3 * columns + 3;
        let values = |n| prop::collection::vec(-1.0..1.0f32, n);
        let parts = (values(rows * columns), values(tokens * columns), values(tokens));
        (parts, 0..columns).prop_map(move |((w, x, signal), first_dead)| {
            let mut w = Array2::from_shape_vec((rows, columns), w).unwrap();
            let mut x = Array2::from_shape_vec((tokens, columns), x).unwrap();
            for (mut x, signal) in x.outer_iter_mut().zip(signal) {
                x += common * signal;
            }
            if dead && first_dead > 0 {
                w.column_mut(first_dead).fill(0.0);
                x.column_mut(first_dead).fill(0.0);
            }
            Layer { w, x }
        })
    })
}

fn settings() -> impl Strategy<Value = QuantConfig> {
    let bits = prop::sample::select(Bits::ALL.to_vec());
    let order = prop::sample::select(vec![ActOrder::Natural, ActOrder::DescAct]);
    (bits, prop::option::of(1..9usize), any::<bool>(), order).prop_map(
        |(bits, group, sym, act_order)| {
            let group_size = match group.and_then(NonZeroUsize::new) {
                Some(n) => GroupSize::Columns(n),
                None => GroupSize::PerChannel,
            };
            let static_groups = true;
            QuantConfig { bits, group_size, sym, act_order, static_groups, ..Default::default() }
        },
    )
}

/// The grid of every column of one row.
fn grids(layer: &Layer, row: usize, config: &QuantConfig) -> Vec<Grid> {
    let size = config.group_size.columns(layer.w.ncols());
    let weights = layer.w.row(row).to_vec();
    weights.chunks(size).flat_map(|g| vec![Grid::of(g.to_vec(), config); g.len()]).collect()
}

/// Below this, rounding in f32 may decide otherwise than the brute force does.
const CLEAR: f64 = 5e-3;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn obq_is_brute_force(layer in layers(true), config in settings()) {
        let config = QuantConfig { act_order: ActOrder::Natural, ..config };
        let factor = layer.factor(&config);
        let damped = layer.damped();
        for (r, w) in layer.w.axis_chunks_iter(Axis(0), 1).enumerate() {
            let (q, loss) = obq(w, &factor, &config, Order::Greedy).unwrap();
            let mut brute = Brute::new(&damped, w.iter().copied());
            brute.obq(&grids(&layer, r, &config), None);
            let (row, expected) = brute.finish();
            if brute.margin < CLEAR {
                continue;
            }
            for (q, v) in q.dequantize().iter().zip(row) {
                prop_assert!((f64::from(*q) - v).abs() < 1e-6, "{q} against {v}");
            }
            prop_assert!((loss - expected).abs() < 2e-3 * expected + 1e-9, "{loss}, {expected}");
        }
    }

    /// GPTQ is OBQ with one order for all rows: the identity the paper starts from.
    #[test]
    fn obq_in_the_order_of_the_factor_is_gptq(layer in layers(true), config in settings()) {
        let factor = layer.factor(&config);
        let damped = layer.damped();
        for (r, w) in layer.w.axis_chunks_iter(Axis(0), 1).enumerate() {
            let (gptq, gptq_loss) = quantize(w, &factor, &config, &Portable).unwrap();
            let (q, loss) = obq(w, &factor, &config, Order::Factor).unwrap();
            prop_assert_eq!((&q.scales, &q.zeros), (&gptq.scales, &gptq.zeros));
            prop_assert_eq!(&q.g_idx, &gptq.g_idx);
            let mut brute = Brute::new(&damped, w.iter().copied());
            brute.obq(&grids(&layer, r, &config), Some(factor.perm()));
            if brute.margin < CLEAR {
                continue;
            }
            prop_assert_eq!(&q.codes, &gptq.codes);
            prop_assert!((loss - gptq_loss).abs() < 2e-3 * loss + 1e-9, "{loss}, {gptq_loss}");
        }
    }

    /// What the steps cost, added up, is the loss of the result.
    #[test]
    fn costs_add_up_to_the_loss(layer in layers(true), config in settings(), share in 0.0..=1.0f64) {
        let factor = layer.factor(&config);
        let (q, loss) = obq(layer.w.view(), &factor, &config, Order::Greedy).unwrap();
        let measured = layer_loss(layer.w.view(), q.dequantize().view(), &factor, &Portable).unwrap();
        prop_assert!((loss - measured).abs() < 1e-3 * loss + 1e-9, "{loss} against {measured}");

        let zeros = (share * layer.w.ncols() as f64) as usize;
        let (p, loss) = obs_prune(layer.w.view(), &factor, zeros).unwrap();
        let measured = layer_loss(layer.w.view(), p.view(), &factor, &Portable).unwrap();
        prop_assert!((loss - measured).abs() < 1e-3 * loss + 1e-9, "{loss} against {measured}");
    }

    #[test]
    fn pruning_is_brute_force(layer in layers(true), share in 0.0..=1.0f64) {
        let factor = layer.factor(&natural());
        let damped = layer.damped();
        let zeros = (share * layer.w.ncols() as f64) as usize;
        for w in layer.w.axis_chunks_iter(Axis(0), 1) {
            let (pruned, loss) = obs_prune(w, &factor, zeros).unwrap();
            prop_assert!(pruned.iter().filter(|&&v| v == 0.0).count() >= zeros);
            let mut brute = Brute::new(&damped, w.iter().copied());
            for _ in 0..zeros {
                let open = brute.open();
                let index = brute.cheapest(&open, &vec![0.0; open.len()]);
                brute.fix(open[index].0, 0.0);
            }
            let (row, expected) = brute.finish();
            if brute.margin < CLEAR {
                continue;
            }
            for (p, v) in pruned.iter().zip(row) {
                prop_assert!((f64::from(*p) - v).abs() < 1e-4, "{p} against {v}");
            }
            prop_assert!((loss - expected).abs() < 2e-3 * expected + 1e-9, "{loss}, {expected}");
        }
    }

    /// The first weight costs `½ w² / (H⁻¹)[p, p]`, and the cheapest is taken.
    #[test]
    fn one_zero_costs_the_least_saliency(layer in layers(false)) {
        let factor = layer.factor(&natural());
        let inverse = invert(&layer.damped());
        let (_, loss) = obs_prune(layer.w.view(), &factor, 1).unwrap();
        let least = |row: ndarray::ArrayView1<'_, f32>| {
            let saliency = |(c, &w): (usize, &f32)| f64::from(w * w) / inverse[(c, c)] / 2.0;
            row.iter().enumerate().map(saliency).fold(f64::INFINITY, f64::min)
        };
        let expected: f64 = layer.w.outer_iter().map(least).sum();
        prop_assert!((loss - expected).abs() < 1e-3 * expected + 1e-12, "{loss} {expected}");
    }

    /// Inputs that have nothing to do with each other cannot make up for anything: OBQ rounds to
    /// nearest, OBS prunes by magnitude weighted with the input's power.
    #[test]
    fn independent_inputs_need_no_order(
        w in prop::collection::vec(-1.0..1.0f32, 24),
        power in prop::collection::vec(0.1..9.0f32, 12),
        zeros in 0..=12usize,
    ) {
        let w = Array2::from_shape_vec((2, 12), w).unwrap();
        let h = Array2::from_diag(&Array1::from(power));
        let factor = Hessian::from_matrix(h.clone()).unwrap().finish(&natural(), &Portable).unwrap();
        let (q, _) = obq(w.view(), &factor, &natural(), Order::Greedy).unwrap();
        prop_assert_eq!(q, round_to_nearest(w.view(), &natural()).unwrap());

        let damp = 0.01 * h.diag().mean().unwrap();
        let (pruned, _) = obs_prune(w.view(), &factor, zeros).unwrap();
        for (w, pruned) in w.outer_iter().zip(pruned.outer_iter()) {
            let cost = |c: &usize| w[*c] * w[*c] * (h[(*c, *c)] + damp);
            let (gone, kept): (Vec<usize>, Vec<usize>) = (0..12).partition(|&c| pruned[c] == 0.0);
            prop_assert_eq!(gone.len(), zeros);
            prop_assert!(kept.iter().all(|&c| pruned[c] == w[c]));
            let dearest = gone.iter().map(cost).fold(0.0, f32::max);
            prop_assert!(kept.iter().map(cost).all(|c| c >= dearest * 0.9999));
        }
    }
}

fn natural() -> QuantConfig {
    QuantConfig { act_order: ActOrder::Natural, static_groups: true, ..QuantConfig::default() }
}

/// A layer whose inputs are mixtures of a few sources.
fn correlated(rows: usize, columns: usize) -> Layer {
    let noise = |rows, columns, seed: u32| {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        Array2::from_shape_fn((rows, columns), |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        })
    };
    let sources = noise(4 * columns, columns / 4, 1).dot(&noise(columns / 4, columns, 2));
    Layer { w: noise(rows, columns, 4), x: sources + noise(4 * columns, columns, 3) * 0.3 }
}

/// Not a law, but what the method is for.
#[test]
fn the_free_order_beats_the_fixed_one_on_correlated_inputs() {
    let layer = correlated(16, 64);
    for bits in [Bits::B2, Bits::B3, Bits::B4] {
        let config = QuantConfig { bits, ..natural() };
        let factor = layer.factor(&config);
        let (_, free) = obq(layer.w.view(), &factor, &config, Order::Greedy).unwrap();
        let (_, fixed) = quantize(layer.w.view(), &factor, &config, &Portable).unwrap();
        assert!(free < fixed, "{bits:?}: {free} against {fixed}");
    }
}

#[test]
fn all_or_nothing() {
    let layer = correlated(3, 16);
    let factor = layer.factor(&natural());
    let (same, loss) = obs_prune(layer.w.view(), &factor, 0).unwrap();
    assert_eq!((same, loss), (layer.w.clone(), 0.0));
    let (none, loss) = obs_prune(layer.w.view(), &factor, 16).unwrap();
    assert_eq!(none, Array2::zeros((3, 16)));
    let w = layer.w.mapv(f64::from);
    let everything = (&w.dot(&layer.damped()) * &w).sum() / 2.0;
    assert!((loss - everything).abs() < 1e-4 * everything, "{loss} against {everything}");
}

#[test]
fn threads_do_not_matter() {
    let layer = correlated(8, 32);
    let factor = layer.factor(&natural());
    let run = |threads| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            (
                obq(layer.w.view(), &factor, &natural(), Order::Greedy).unwrap(),
                obs_prune(layer.w.view(), &factor, 16).unwrap(),
            )
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn refusals() {
    let factor = correlated(1, 16).factor(&natural());
    let wide = Array2::zeros((2, 17));
    let expected = Error::Shape { what: "weight", found: [2, 17], expected: [2, 16] };
    assert_eq!(obq(wide.view(), &factor, &natural(), Order::Greedy), Err(expected.clone()));
    assert_eq!(obs_prune(wide.view(), &factor, 1), Err(expected));

    let mut damaged = Array2::zeros((2, 16));
    damaged[(1, 3)] = f32::NAN;
    for result in [
        obq(damaged.view(), &factor, &natural(), Order::Greedy).map(|_| ()),
        obs_prune(damaged.view(), &factor, 1).map(|_| ()),
    ] {
        assert!(matches!(result, Err(Error::NotFinite { row: 1, column: 3, .. })), "{result:?}");
    }

    let error = obs_prune(Array2::zeros((2, 16)).view(), &factor, 17).unwrap_err();
    assert_eq!(error.to_string(), "17 zeros were asked for in rows of 16 weights");
}

/// Two inputs, worked by hand with H = [[2, 1], [1, 2]] and no more than the damping of 2 %.
#[test]
fn worked_by_hand() {
    let h = array![[2.0, 1.0], [1.0, 2.0f32]];
    let factor = Hessian::from_matrix(h).unwrap().finish(&natural(), &Portable).unwrap();
    // Damped: 2.02. [H⁻¹]pp = 2.02 / (2.02² − 1), so ½ · 0.3² / [H⁻¹]pp = 0.0686225;
    // the other moves to 1 + 0.3 · 1/2.02.
    let (pruned, loss) = obs_prune(array![[1.0, 0.3f32]].view(), &factor, 1).unwrap();
    assert!((loss - 0.068_622_5).abs() < 1e-6, "{loss}");
    assert!((pruned[(0, 0)] - 1.148_514_9).abs() < 1e-6 && pruned[(0, 1)] == 0.0, "{pruned}");
}
