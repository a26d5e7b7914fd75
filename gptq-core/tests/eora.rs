//! The low-rank correction against the theorem it rests on.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failing test panics")]

use gptq_core::{Error, LowRank, eora};
use ndarray::{Array1, Array2, array};
use proptest::prelude::*;

/// Squared singular values in descending order, by rotating pairs of rows until all are
/// orthogonal (Hestenes 1958).
fn squared_singular_values(a: &Array2<f64>) -> Vec<f64> {
    let short = if a.nrows() <= a.ncols() { a.view() } else { a.t() };
    let mut rows: Vec<Vec<f64>> = short.outer_iter().map(|row| row.to_vec()).collect();
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let negligible = 1e-26 * rows.iter().map(|x| dot(x, x)).sum::<f64>();
    for _sweep in 0..60 {
        let mut rotated = false;
        for j in 1..rows.len() {
            let (before, from) = rows.split_at_mut(j);
            let y = &mut from[0];
            for x in before {
                let (xx, yy, xy) = (dot(x, x), dot(y, y), dot(x, y));
                if xx.min(yy) <= negligible || xy.abs() <= 1e-14 * (xx * yy).sqrt() {
                    continue;
                }
                rotated = true;
                let zeta = (yy - xx) / (2.0 * xy);
                let tangent = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                let cosine = 1.0 / (1.0 + tangent * tangent).sqrt();
                let sine = cosine * tangent;
                for (x, y) in x.iter_mut().zip(y.iter_mut()) {
                    (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
                }
            }
        }
        if !rotated {
            break;
        }
    }
    let mut squares: Vec<f64> = rows.iter().map(|x| dot(x, x)).collect();
    squares.sort_by(|a, b| b.total_cmp(a));
    squares
}

fn second_moment(x: &Array2<f32>) -> Array2<f32> {
    let x = x.mapv(f64::from);
    x.t().dot(&x).mapv(|v| v as f32)
}

fn product(low_rank: &LowRank) -> Array2<f64> {
    low_rank.b.mapv(f64::from).dot(&low_rank.a.mapv(f64::from))
}

/// `‖X dᵀ‖²`.
fn output_error(x: &Array2<f32>, d: &Array2<f64>) -> f64 {
    x.mapv(f64::from).dot(&d.t()).mapv(|v| v * v).sum()
}

#[derive(Clone, Debug)]
struct Case {
    x: Array2<f32>,
    dw: Array2<f32>,
    rank: usize,
}

/// Few tokens in about half the cases: a singular second moment. Inputs are multiples of 1/64, so
/// that f32 holds the second moment exactly.
fn cases() -> impl Strategy<Value = Case> {
    (1..9usize, 1..9usize, 1..17usize).prop_flat_map(|(rows, columns, tokens)| {
        let weights = prop::collection::vec(-1.0..1.0f32, rows * columns);
        let inputs = prop::collection::vec(-64..=64i8, tokens * columns);
        (weights, inputs, 1..=rows.min(columns)).prop_map(move |(dw, x, rank)| Case {
            x: Array2::from_shape_vec((tokens, columns), x).unwrap().mapv(|v| f32::from(v) / 64.0),
            dw: Array2::from_shape_vec((rows, columns), dw).unwrap(),
            rank,
        })
    })
}

/// What f32 factors may cost: rounding moves `B A` by 2⁻²³ of its size, and what is left of the
/// error by twice that share of the whole at most. The iteration stops at a growth of 1e-12, which
/// is far less.
const ROUNDING: f64 = 3e-7;

/// What is left of the error is what Eckart and Young say must be left.
fn check_optimal(case: &Case) {
    if case.x.iter().all(|&v| v == 0.0) {
        return;
    }
    let low_rank = eora(case.dw.view(), second_moment(&case.x).view(), case.rank).unwrap();
    assert_eq!(low_rank.a.dim(), (case.rank, case.dw.ncols()));
    assert_eq!(low_rank.b.dim(), (case.dw.nrows(), case.rank));
    let dw = case.dw.mapv(f64::from);
    let squares = squared_singular_values(&dw.dot(&case.x.mapv(f64::from).t()));
    let discarded: f64 = squares.iter().skip(case.rank).sum();
    let left = output_error(&case.x, &(&dw - &product(&low_rank)));
    let all: f64 = squares.iter().sum();
    assert!((left - discarded).abs() <= ROUNDING * all, "{left}, {discarded} of {all}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn leaves_the_discarded_singular_values(case in cases()) {
        check_optimal(&case);
    }

    /// At full rank nothing is left of the error on the inputs that occur.
    #[test]
    fn full_rank_corrects_every_input(case in cases()) {
        prop_assume!(case.x.iter().any(|&v| v != 0.0));
        let full = Case { rank: case.dw.nrows().min(case.dw.ncols()), ..case };
        let low_rank = eora(full.dw.view(), second_moment(&full.x).view(), full.rank).unwrap();
        let dw = full.dw.mapv(f64::from);
        let left = output_error(&full.x, &(&dw - &product(&low_rank)));
        let all = output_error(&full.x, &dw);
        prop_assert!(left <= ROUNDING * all, "{left} of {all}");
    }

    /// The inputs' scale does not matter, as long as it is the same for all.
    #[test]
    fn scale_of_the_inputs_does_not_matter(case in cases(), exponent in -60..60i32) {
        let m = second_moment(&case.x);
        prop_assume!(m.diag().sum() > 0.0);
        let scaled = &m * 2f32.powi(exponent);
        let error = |m: &Array2<f32>| {
            let low_rank = eora(case.dw.view(), m.view(), case.rank).unwrap();
            output_error(&case.x, &(case.dw.mapv(f64::from) - product(&low_rank)))
        };
        let all = output_error(&case.x, &case.dw.mapv(f64::from));
        prop_assert!((error(&m) - error(&scaled)).abs() <= ROUNDING * all);
    }

    /// What is left is a projection of the error: no input has a larger one than before, whether it
    /// occurred or not.
    #[test]
    fn no_input_gets_worse(case in cases(), input in prop::collection::vec(-1.0..1.0f64, 8)) {
        prop_assume!(second_moment(&case.x).diag().sum() > 0.0);
        let low_rank = eora(case.dw.view(), second_moment(&case.x).view(), case.rank).unwrap();
        let dw = case.dw.mapv(f64::from);
        let input = Array1::from_iter(input.into_iter().take(dw.ncols()));
        let norm = |d: &Array2<f64>| d.dot(&input).mapv(|v| v * v).sum().sqrt();
        let (left, before) = (norm(&(&dw - &product(&low_rank))), norm(&dw));
        let scale = dw.mapv(|v| v * v).sum().sqrt() * input.dot(&input).sqrt();
        prop_assert!(left <= before + 1e-6 * scale, "{left}, {before}");
    }
}

/// Computed with the eigenvectors and singular vectors of a numerical package.
#[test]
fn known_numbers() {
    let m = array![[4.0, 1.0], [1.0, 2.0f32]];
    let dw = array![[0.3, -0.1], [0.2, 0.4f32]];
    let expected = array![[0.15655124, 0.14653654], [0.28015855, 0.26223660]];
    for factor in [1.0, 1e-3, 7.0, 1e6] {
        let low_rank = eora(dw.view(), (&m * factor).view(), 1).unwrap();
        let worst = (product(&low_rank) - &expected).fold(0f64, |w, d| w.max(d.abs()));
        assert!(worst < 1e-7, "factor {factor}: off by {worst}");
    }
    // The factors are balanced: BᵀB = Σ, and A m Aᵀ = Σ.
    let low_rank = eora(dw.view(), m.view(), 2).unwrap();
    let sigma = [0.88616407, 0.41798723];
    let left = low_rank.b.t().dot(&low_rank.b);
    let right = low_rank.a.dot(&m).dot(&low_rank.a.t());
    for gram in [left, right] {
        assert!((gram[(0, 0)] - sigma[0]).abs() < 1e-6 && (gram[(1, 1)] - sigma[1]).abs() < 1e-6);
        assert!(gram[(0, 1)].abs() < 1e-6, "{gram}");
    }
}

/// Reproducible numbers in [-1, 1).
fn noise(rows: usize, columns: usize, seed: u32) -> Array2<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    Array2::from_shape_fn((rows, columns), |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    })
}

/// Blocks much smaller than the layer, in all shapes; all spectra fall slowly.
#[test]
fn wide_layers() {
    for (rows, columns) in [(40, 150), (150, 40), (150, 150), (20, 400), (400, 20)] {
        let x = noise(300, columns / 4, 1).dot(&noise(columns / 4, columns, 2));
        let x = (x + noise(300, columns, 3) * 0.5).mapv(|v| (v * 16.0).round() / 16.0);
        for rank in [1, 16, 40].map(|rank| rank.min(rows).min(columns)) {
            check_optimal(&Case { x: x.clone(), dw: noise(rows, columns, 4), rank });
        }
    }
}

/// Singular values 1 … n⁻ᵖ: from all but equal to twelve decades in the square. No input stands
/// out, so those of the error are those of the product.
#[test]
fn falling_singular_values() {
    let n = 120;
    let reflect = |a: Array2<f64>, seed| {
        let v = noise(n, 1, seed).mapv(f64::from);
        let v = &v / v.mapv(|v| v * v).sum().sqrt();
        &a - &(&v * 2.0).dot(&v.t().dot(&a))
    };
    for power in [0.001, 0.1, 0.5, 1.0, 3.0] {
        let values =
            Array2::from_diag(&Array1::from_shape_fn(n, |i| ((i + 1) as f64).powf(-power)));
        let dw = reflect(reflect(values, 1).reversed_axes(), 2).mapv(|v| v as f32);
        for rank in [1, 8, 64] {
            check_optimal(&Case { x: Array2::eye(n), dw: dw.clone(), rank });
        }
    }
}

/// Repeated and already sorted eigenvalues, on which eigensolvers have erred before.
#[test]
fn degenerate_inputs() {
    for n in [1, 2, 33, 130] {
        let equal = Array2::eye(n);
        let falling =
            Array2::from_shape_fn((n, n), |(i, j)| if i == j { (n - i) as f32 } else { 0.0 });
        let paired = Array2::from_shape_fn((n, n), |(i, j)| if i / 2 == j / 2 { 1.0 } else { 0.0 });
        for x in [&equal, &falling, &paired] {
            for dw in [noise(n, n, 1), equal.clone()] {
                for rank in [1, n.div_ceil(2), n] {
                    check_optimal(&Case { x: x.clone(), dw: dw.clone(), rank });
                }
            }
        }
    }
}

/// A rank above what occurs is filled with zeros.
#[test]
fn inputs_in_a_plane() {
    let x = (noise(20, 2, 1) * 8.0).round().dot(&(noise(2, 6, 2) * 8.0).round());
    let low_rank = eora(noise(5, 6, 3).view(), second_moment(&x).view(), 4).unwrap();
    for r in 0..4 {
        let mut entries = low_rank.a.row(r).into_iter().chain(low_rank.b.column(r));
        assert!(if r < 2 { entries.all(|&v| v != 0.0) } else { entries.all(|&v| v == 0.0) });
    }
}

/// Nothing to correct, or nothing that any input sees.
#[test]
fn no_error_no_correction() {
    let unseen = array![[0.0, 0.5], [0.0, -1.0f32]];
    let m = array![[4.0, 0.0], [0.0, 0.0f32]];
    for dw in [Array2::zeros((2, 2)), unseen] {
        let low_rank = eora(dw.view(), m.view(), 1).unwrap();
        assert_eq!(low_rank, LowRank { a: Array2::zeros((1, 2)), b: Array2::zeros((2, 1)) });
    }
}

#[test]
fn refusals() {
    let (dw, m) = (noise(3, 5, 1), second_moment(&noise(9, 5, 2)));
    let message = |result: Result<LowRank, Error>| result.unwrap_err().to_string();
    for rank in [0, 4] {
        let expected =
            format!("rank is {rank}, but a correction of a layer 3 × 5 has a rank of 1 to 3");
        assert_eq!(message(eora(dw.view(), m.view(), rank)), expected);
    }
    let zero = message(eora(dw.view(), Array2::zeros((5, 5)).view(), 1));
    assert!(zero.contains("has the trace 0, so no input was ever active"), "{zero}");
    let narrow = eora(dw.view(), Array2::zeros((4, 4)).view(), 1);
    let (found, expected) = ([4, 4], [5, 5]);
    assert_eq!(narrow, Err(Error::Shape { what: "second moment", found, expected }));
    let mut damaged = dw.clone();
    damaged[(1, 2)] = f32::NAN;
    let error = eora(damaged.view(), m.view(), 1);
    assert!(matches!(error, Err(Error::NotFinite { what: "weight error", row: 1, column: 2, .. })));
    let mut damaged = m.clone();
    damaged[(4, 0)] = f32::INFINITY;
    let error = eora(dw.view(), damaged.view(), 1);
    assert!(matches!(error, Err(Error::NotFinite { what: "second moment", row: 4, .. })));
}
