//! Small cases worked by hand or by the public reference solvers, number for number.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::{
    num::NonZeroUsize,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use gptq_core::{
    ActOrder, Bits, DampOutcome, Damping, Error, Grid, GridSearch, GroupSize, Hessian, Linalg,
    Portable, QuantConfig, QuantizedMatrix, round_to_nearest, solve, solve_with,
};
use ndarray::{Array2, ArrayView2, ArrayViewMut2, array};
use sha2::{Digest, Sha256};

fn columns(n: usize) -> GroupSize {
    GroupSize::Columns(NonZeroUsize::new(n).unwrap())
}

fn config(bits: Bits, sym: bool, group_size: GroupSize) -> QuantConfig {
    QuantConfig { bits, sym, group_size, act_order: ActOrder::Natural, ..Default::default() }
}

fn grid_and_codes(row: &[f32], bits: Bits, sym: bool) -> (f32, f32, Vec<u8>) {
    let grid = Grid::of(row.iter().copied(), &config(bits, sym, GroupSize::PerChannel));
    (grid.scale, grid.zero, row.iter().map(|&x| grid.encode(x) as u8).collect())
}

#[test]
fn a_row_of_zeros_has_a_grid() {
    // In f32, 2/maxq is rounded up, so the asymmetric zero lands just below the tie.
    let expected = [
        (Bits::B2, 0x3F2AAAAB, 2.0, 2.0),
        (Bits::B3, 0x3E924925, 3.0, 4.0),
        (Bits::B4, 0x3E088889, 7.0, 8.0),
        (Bits::B8, 0x3C008081, 127.0, 128.0),
    ];
    for (bits, scale, asym, sym) in expected {
        let (s, z, codes) = grid_and_codes(&[0.0; 4], bits, false);
        assert_eq!((s.to_bits(), z), (scale, asym), "{bits:?}");
        assert_eq!(codes, vec![asym as u8; 4]);
        let (s, z, _) = grid_and_codes(&[0.0; 4], bits, true);
        assert_eq!((s.to_bits(), z), (scale, sym), "{bits:?}");
    }
}

#[test]
fn symmetric_rows_without_negatives_saturate() {
    let row = [0.0, 1.0, 2.0, 3.0];
    assert_eq!(grid_and_codes(&row, Bits::B4, true), (0.2, 8.0, vec![8, 13, 15, 15]));
    assert_eq!(grid_and_codes(&row, Bits::B3, true), (0.428_571_43, 4.0, vec![4, 6, 7, 7]));
    assert_eq!(grid_and_codes(&row, Bits::B2, true), (1.0, 2.0, vec![2, 3, 3, 3]));
    assert_eq!(grid_and_codes(&row, Bits::B8, true).2, vec![128, 213, 255, 255]);
}

#[test]
fn grids_of_mixed_and_negative_rows() {
    let row = [-1.0, 0.0, 2.0, 4.0];
    assert_eq!(grid_and_codes(&row, Bits::B4, true), (0.533_333_36, 8.0, vec![6, 8, 12, 15]));
    assert_eq!(grid_and_codes(&row, Bits::B4, false), (0.333_333_34, 3.0, vec![0, 3, 9, 15]));
    assert_eq!(grid_and_codes(&row, Bits::B3, false), (0.714_285_73, 1.0, vec![0, 1, 4, 7]));
    let (scale, zero, codes) = grid_and_codes(&row, Bits::B8, false);
    assert!((scale - 0.019_607_84).abs() < 1e-8);
    assert_eq!((zero, codes), (51.0, vec![0, 51, 153, 255]));
    // -4 / 0.53333336 is just above -7.5: code 1, not 0.
    let row = [-4.0, -3.0, -2.0, -1.0];
    assert_eq!(grid_and_codes(&row, Bits::B4, true), (0.533_333_36, 8.0, vec![1, 2, 4, 6]));
    assert_eq!(grid_and_codes(&row, Bits::B4, false), (0.266_666_68, 15.0, vec![0, 4, 8, 11]));
}

#[test]
fn shrunken_grids_by_mse() {
    let row = array![[-0.9, -0.31, -0.22, -0.1, 0.05, 0.13, 0.27, 0.4f32]];
    let cases: [(Bits, bool, f32, u8, [u8; 8]); 6] = [
        (Bits::B4, true, 0.1104, 8, [0, 5, 6, 7, 8, 9, 10, 12]),
        (Bits::B4, false, 0.0858, 10, [0, 6, 7, 9, 11, 12, 13, 15]),
        (Bits::B3, true, 0.221_142_86, 4, [0, 3, 3, 4, 4, 5, 5, 6]),
        (Bits::B3, false, 0.172_714_28, 5, [0, 3, 4, 4, 5, 6, 7, 7]),
        (Bits::B2, true, 0.378, 2, [0, 1, 1, 2, 2, 2, 3, 3]),
        (Bits::B2, false, 0.377, 2, [0, 1, 1, 2, 2, 2, 3, 3]),
    ];
    for (bits, sym, scale, zero, codes) in cases {
        let config = QuantConfig {
            mse: Some(GridSearch { both_zeros: false, ..Default::default() }),
            ..config(bits, sym, GroupSize::PerChannel)
        };
        let q = round_to_nearest(row.view(), &config).unwrap();
        assert!((q.scales[(0, 0)] - scale).abs() < 1e-6, "{bits:?} {sym}: {}", q.scales);
        assert_eq!((q.zeros[(0, 0)], q.codes.as_slice().unwrap()), (zero, &codes[..]));
    }
}

fn two_by_four() -> (Array2<f32>, Hessian) {
    let w = array![[0.9, -0.35, 0.42, -1.1], [0.2, 0.55, -0.75, 0.3]];
    let h = array![[4., 2., 1., 0.], [2., 3., 0.5, 1.], [1., 0.5, 2., 0.25], [0., 1., 0.25, 1.]];
    (w, Hessian::from_matrix(h).unwrap())
}

#[test]
fn a_layer_of_two_rows() {
    let whole = GroupSize::PerChannel;
    let (w, h) = two_by_four();
    let factor = h.clone().finish(&config(Bits::B4, true, whole), &Portable).unwrap();
    let want = array![
        [0.749_111_6, -0.694_715_1, -0.290_829_8, 0.748_704_9],
        [0., 0.704_295_8, -0.091_836_15, -0.664_718_8],
        [0., 0., 0.713_553_5, -0.174_037_5],
        [0., 0., 0., 0.987_729_6]
    ];
    assert!((&factor.upper() - &want).iter().all(|d: &f32| d.abs() < 1e-5));

    let cases = [
        (Bits::B4, true, array![[14, 6, 11, 0], [10, 14, 0, 11]]),
        (Bits::B4, false, array![[15, 5, 11, 0], [11, 15, 1, 13]]),
        (Bits::B3, true, array![[7, 3, 5, 0], [5, 7, 0, 5]]),
        (Bits::B2, true, array![[3, 2, 3, 0], [2, 3, 1, 3]]),
    ];
    for (bits, sym, codes) in cases {
        let solved = solve(w.view(), h.clone(), &config(bits, sym, whole), &Portable).unwrap();
        assert_eq!(solved.quantized.codes, codes, "{bits:?} sym={sym}");
    }
    let nearest = round_to_nearest(w.view(), &config(Bits::B4, true, whole)).unwrap();
    assert_eq!(nearest.codes, array![[14, 6, 11, 1], [10, 14, 0, 11]]);
    let nearest = round_to_nearest(w.view(), &config(Bits::B4, false, whole)).unwrap();
    assert_eq!(nearest.codes, array![[15, 5, 11, 0], [11, 15, 0, 12]]);
}

#[test]
fn group_scales_are_read_at_block_boundaries() {
    let (w, h) = two_by_four();
    let run = |block: usize| {
        let block_size = NonZeroUsize::new(block).unwrap();
        let config = QuantConfig { block_size, ..config(Bits::B4, false, columns(2)) };
        solve(w.view(), h.clone(), &config, &Portable).unwrap().quantized
    };
    let scales = [
        (128, array![[0.083_333_34, 0.101_333_34], [0.036_666_67, 0.07]]),
        (2, array![[0.083_333_34, 0.101_533_41], [0.036_666_67, 0.069_296_29]]),
    ];
    for (block, scales) in scales {
        let q = run(block);
        assert!((&q.scales - &scales).iter().all(|d: &f32| d.abs() < 1e-6), "{}", q.scales);
        assert_eq!(q.zeros, array![[4, 11], [0, 11]]);
        assert_eq!(q.codes, array![[15, 0, 15, 0], [5, 15, 0, 15]]);
    }
}

#[test]
fn activation_order_and_static_groups() {
    let (w, _) = two_by_four();
    let h =
        array![[1., 0.2, 0.1, 0.], [0.2, 4., 0.5, 1.], [0.1, 0.5, 2., 0.25], [0., 1., 0.25, 3.]];
    let run = |act_order, static_groups| {
        let config = QuantConfig { act_order, static_groups, ..config(Bits::B4, true, columns(2)) };
        solve(w.view(), Hessian::from_matrix(h.clone()).unwrap(), &config, &Portable)
            .unwrap()
            .quantized
    };
    let natural = run(ActOrder::Natural, false);
    assert_eq!(natural.g_idx, [0, 0, 1, 1]);
    assert_eq!(natural.codes, array![[15, 5, 11, 1], [13, 15, 1, 12]]);
    let ordered = run(ActOrder::DescAct, false);
    assert_eq!(ordered.g_idx, [1, 0, 1, 0]);
    assert_eq!(ordered.codes, array![[15, 6, 15, 0], [11, 15, 1, 15]]);
    assert!((ordered.scales[(0, 1)] - 0.06).abs() < 1e-6);
    let fixed = run(ActOrder::DescAct, true);
    assert_eq!(fixed.g_idx, [0, 0, 1, 1]);
    assert_eq!(fixed.codes, array![[15, 5, 11, 1], [15, 15, 1, 12]]);
    assert_eq!(fixed.scales, natural.scales);
}

#[test]
fn the_hessian_counts_sequences_or_tokens() {
    let first = array![[1., 2.], [3., 4.]];
    let second = array![[0., 1.], [1., 0.], [2., 2.], [1., -1.]];
    let build = |counts: [u64; 2]| {
        let mut h = Hessian::new(2);
        h.add_batch(first.view(), counts[0]).unwrap();
        let mut other = Hessian::new(2);
        other.add_batch(second.view(), counts[1]).unwrap();
        h.merge(&other).unwrap();
        h.matrix()
    };
    let close = |a: Array2<f32>, b: Array2<f32>| (a - b).iter().all(|d| d.abs() < 1e-4);
    assert!(close(build([1, 2]), array![[10.6667, 11.3333], [11.3333, 17.3333]]));
    assert!(close(build([2, 4]), array![[5.33333, 5.66667], [5.66667, 8.66667]]));
}

/// Factors as usual and counts how often.
#[derive(Default)]
struct Counting(AtomicU32);

impl Linalg for Counting {
    fn gemm(
        &self,
        alpha: f32,
        a: ArrayView2<'_, f32>,
        b: ArrayView2<'_, f32>,
        c: ArrayViewMut2<'_, f32>,
    ) {
        Portable.gemm(alpha, a, b, c);
    }

    fn inverse_factor(&self, h: &mut Array2<f32>) -> Result<(), Error> {
        self.0.fetch_add(1, Relaxed);
        Portable.inverse_factor(h)
    }
}

/// The damping of a 2 × 2 Hessian and how many factorisations it took to find.
fn damping_of(h: Array2<f32>, auto_increment: f64) -> (Result<DampOutcome, Error>, u32) {
    let damping = Damping { percent: 0.05, auto_increment };
    let config = QuantConfig { damping, ..config(Bits::B4, true, GroupSize::PerChannel) };
    let counting = Counting::default();
    let factor = Hessian::from_matrix(h).unwrap().finish(&config, &counting);
    (factor.map(|f| f.damp()), counting.0.into_inner())
}

#[test]
fn damping_grows_until_the_factor_exists() {
    let (damp, tried) = damping_of(array![[1., 1.175], [1.175, 1.]], 0.01);
    let damp = damp.unwrap();
    assert!((damp.percent - 0.18).abs() < 1e-9, "{damp:?}");
    assert_eq!((damp.attempts, damp.floor, damp.floor_added, tried), (14, 0, 0.0, 7));
}

/// What cannot be solved is handed back as it was given, whatever order it was tried in.
#[test]
fn a_hessian_that_nothing_helps_comes_back_as_it_was() {
    let mut h = Array2::from_shape_fn((6, 6), |(r, c)| match r == c {
        true => 1.0 + 0.01 * r as f32,
        false => 2.5 + 0.1 * (r * c % 5) as f32,
    });
    for dead in [2, 5] {
        h.row_mut(dead).fill(0.0);
        h.column_mut(dead).fill(0.0);
    }
    let cross = Array2::from_shape_fn((6, 6), |(r, c)| (r * 6 + c) as f32);
    let pairs = GroupSize::from_file(2).unwrap();
    for (act_order, group_size) in [
        (ActOrder::Natural, GroupSize::PerChannel),
        (ActOrder::DescAct, GroupSize::PerChannel),
        (ActOrder::GroupAware, pairs),
    ] {
        let config =
            QuantConfig { act_order, gptaq_alpha: 0.25, ..config(Bits::B4, true, group_size) };
        let given = Hessian::from_matrix(h.clone()).unwrap().with_cross(cross.clone()).unwrap();
        let error = given.finish(&config, &Portable).unwrap_err();
        let Error::NotPositiveDefinite { unsolved: Some(unsolved), .. } = error else {
            panic!("{error}")
        };
        assert_eq!(unsolved.hessian, h);
        let mut alive = cross.clone();
        [2, 5].into_iter().for_each(|dead| alive.column_mut(dead).fill(0.0));
        assert_eq!(unsolved.cross, Some(alive));
    }
}

#[test]
fn a_raised_diagonal_is_the_second_resort() {
    // 1 + 0.1 and 0.99 of that are not enough for 2.5: eight on the diagonal as it is, one more.
    let (error, tried) = damping_of(array![[1., 2.5], [2.5, 1.]], 0.01);
    let error = error.unwrap_err();
    assert!(matches!(error, Error::NotPositiveDefinite { attempts: 665, .. }), "{error}");
    assert_eq!(tried, 8);
    // 2 · 1.1 is more than 2.1, 2 · 1.01 is not: the raise by a tenth alone will do.
    let (damp, _) = damping_of(array![[1., 2.1], [2.1, 1.]], 0.01);
    let damp = damp.unwrap();
    assert!(damp.floor == 6 && (damp.floor_added - 0.1).abs() < 1e-12, "{damp:?}");
    // The smallest share with 1.1 · (1 + share) > 2.1 is 0.91, the 87th of 95.
    assert!((damp.percent - 0.91).abs() < 1e-9 && damp.attempts == 6 * 95 + 87, "{damp:?}");
    // A negative entry becomes a millionth of the largest at the first raise.
    let (damp, _) = damping_of(array![[-2., 0.], [0., 1.]], 0.0);
    let damp = damp.unwrap();
    assert_eq!((damp.percent, damp.attempts, damp.floor), (0.05, 2, 1));
    assert!((damp.floor_added - 2e-6).abs() < 1e-18);
}

/// A linear congruential stream in [-0.5, 0.5), the first value after one step.
fn lcg(seed: u32) -> impl Iterator<Item = f64> {
    std::iter::successors(Some(seed), |x| {
        Some(x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223))
    })
    .skip(1)
    .map(|x| f64::from(x) / 4_294_967_296.0 - 0.5)
}

/// W (32 × 64) and X (96 × 64).
fn medium_layer() -> (Array2<f32>, Array2<f32>) {
    let w = lcg(1).take(32 * 64).map(|v| v as f32).collect();
    let x = lcg(2)
        .take(96 * 64)
        .enumerate()
        .map(|(i, v)| (v * (1.0 + ((37 * (i % 64)) % 11) as f64 / 4.0)) as f32)
        .collect();
    let matrix = |rows, values| Array2::from_shape_vec((rows, 64), values).unwrap();
    (matrix(32, w), matrix(96, x))
}

fn hessian(x: &Array2<f32>) -> Hessian {
    let mut h = Hessian::new(x.ncols());
    h.add_batch(x.view(), x.nrows() as u64).unwrap();
    h
}

/// `qweight` as checkpoints store it: codes of a column as one little-endian bit stream.
fn qweight_hash(q: &QuantizedMatrix) -> String {
    let bits = q.bits.get() as usize;
    let words = q.in_features() * bits / 32;
    let mut packed = Array2::<u32>::zeros((words, q.out_features()));
    for ((r, c), &code) in q.codes.indexed_iter() {
        for b in 0..bits {
            let at = c * bits + b;
            packed[(at / 32, r)] |= u32::from(code >> b & 1) << (at % 32);
        }
    }
    let bytes: Vec<u8> = packed.iter().flat_map(|w| w.to_le_bytes()).collect();
    Sha256::digest(bytes).iter().take(8).map(|b| format!("{b:02x}")).collect()
}

#[test]
fn a_medium_layer_bit_for_bit() {
    let (w, x) = medium_layer();
    let h = hessian(&x);
    assert!((w[(0, 0)] + 0.263_544_47).abs() < 1e-7);
    assert!((h.matrix()[(0, 1)] + 0.008_537_01).abs() < 1e-6);
    let whole = GroupSize::PerChannel;
    let gar = ActOrder::GroupAware;
    // (bits, sym, group, order, hash if no code hangs on a tie, scale[0], loss per token)
    let cases = [
        (
            Bits::B4,
            true,
            columns(16),
            ActOrder::Natural,
            Some("9e17a8b31b0ef74a"),
            0.064_467_57,
            0.002_904_22,
        ),
        (Bits::B4, true, columns(16), ActOrder::DescAct, None, 0.064_467_57, 0.002_544_90),
        (Bits::B4, true, columns(16), gar, None, 0.064_467_57, 0.002_829_50),
        (
            Bits::B4,
            false,
            columns(16),
            ActOrder::Natural,
            Some("865ab555e04d10ee"),
            0.064_290_18,
            0.002_583_70,
        ),
        (Bits::B3, true, columns(32), gar, Some("e76446e828565128"), 0.138_144_79, 0.013_422_94),
        (
            Bits::B8,
            true,
            whole,
            ActOrder::Natural,
            Some("daaeb9658c2fbe17"),
            0.003_877_17,
            0.000_010_33,
        ),
        (
            Bits::B2,
            false,
            columns(16),
            ActOrder::Natural,
            Some("2ac54d1c46ee55a9"),
            0.321_450_92,
            0.070_263_66,
        ),
        (Bits::B4, true, columns(24), gar, None, 0.064_467_57, 0.002_834_98),
    ];
    for (bits, sym, group, act_order, hash, scale, loss) in cases {
        let damping = Damping { percent: 0.05, ..Default::default() };
        let config = QuantConfig { act_order, damping, ..config(bits, sym, group) };
        let solved = solve(w.view(), h.clone(), &config, &Portable).unwrap();
        let q = &solved.quantized;
        let case = format!("{bits:?} sym={sym} {group:?} {act_order:?}");
        if let Some(hash) = hash {
            assert_eq!(qweight_hash(q), hash, "{case}");
        }
        let first = q.scales[(0, q.g_idx[0] as usize)];
        let first = if act_order == ActOrder::DescAct { q.scales[(0, 0)] } else { first };
        assert!((first - scale).abs() < 1e-6, "{case}: scale {first}");
        let per_token = solved.loss / 96.0;
        assert!((per_token - loss).abs() <= 1e-3 * loss + 5e-9, "{case}: loss {per_token}");
    }
}

#[test]
fn a_medium_layer_with_fresh_scales() {
    let (w, x) = medium_layer();
    // Blocks that end where groups do have nothing stale.
    for fresh_scales in [false, true] {
        let config = QuantConfig {
            damping: Damping { percent: 0.05, ..Default::default() },
            block_size: NonZeroUsize::new(16).unwrap(),
            fresh_scales,
            ..config(Bits::B4, true, columns(16))
        };
        let solved = solve(w.view(), hessian(&x), &config, &Portable).unwrap();
        let loss = solved.loss / 96.0;
        assert!((loss - 0.002_927_82).abs() < 3e-6, "{loss}");
    }
}

#[test]
fn a_medium_layer_with_error_in_its_inputs() {
    let (w, x) = medium_layer();
    let noise = Array2::from_shape_vec(x.dim(), lcg(3).take(x.len()).collect()).unwrap();
    let native = (x.mapv(f64::from) + 0.05 * noise).mapv(|v| v as f32);
    let mut h = Hessian::new(64);
    h.add_batch_with_native(x.view(), native.view(), 96).unwrap();

    let cases = [
        (0.25, 0.0, "b14b9e9fa448e413", 0.278_600),
        (0.0, 0.2, "1dd8527dd6ce09e4", 0.280_879),
        (0.25, 0.2, "d4186da03a69826a", 0.280_474),
    ];
    for (gptaq_alpha, foem_beta, hash, loss) in cases {
        let config = QuantConfig {
            gptaq_alpha,
            foem_beta,
            damping: Damping { percent: 0.05, ..Default::default() },
            ..config(Bits::B4, true, columns(16))
        };
        let factor = h.clone().finish(&config, &Portable).unwrap();
        if let Some(p) = factor.shift() {
            assert!((p[(0, 1)] - 3.7803e-4).abs() < 1e-8, "{}", p[(0, 1)]);
            assert!(p.indexed_iter().all(|((i, j), &p)| i < j || p == 0.0));
        }
        let solved = solve_with(w.view(), &factor, &config, &Portable).unwrap();
        let case = format!("alpha {gptaq_alpha}, beta {foem_beta}");
        assert_eq!(qweight_hash(&solved.quantized), hash, "{case}");
        assert!((solved.loss - loss).abs() < 2e-6, "{case}: {}", solved.loss);
    }
}
