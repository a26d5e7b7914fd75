//! The leading eigenvectors of `G = D M Dᵀ`, by an iteration on a whole block of directions (Halko,
//! Martinsson & Tropp 2011) that Chebyshev polynomials accelerate (Rutishauser 1969).
//!
//! Rounding errors are nearly white, so the eigenvalues of G fall slowly, and the gap between the
//! last one wanted and the first one outside the block may be a few percent. Powers of G grow by
//! that much a step; a Chebyshev polynomial, held below 1 on everything under the block, by the
//! square root of it.
//!
//! Vectors are rows throughout: they are contiguous, and G is symmetric.

use ndarray::{Array1, Array2, ArrayView2, Axis, s};

use super::jacobi;

/// Rounds end when one adds less than this, relative to what the directions already capture.
const GROWTH: f64 = 1e-12;

/// Rounds are usually fewer than ten. What this many have reached is a projection all the same.
const MAX_ROUNDS: usize = 100;

/// The first direction may outgrow the last by this much between orthonormalisations, so that the
/// rounding error of the last stays smaller than what it has to say.
const AMPLIFICATION: f64 = 1e14;

/// Of the polynomial, where all eigenvalues are nearly the same.
const MAX_DEGREE: f64 = 64.0;

/// Products with G in a usual run, to decide whether forming it pays.
const PRODUCTS: usize = 50;

/// The `rank` largest eigenvalues of `d m dᵀ`, descending, and their eigenvectors in rows.
pub(super) fn leading(
    d: ArrayView2<'_, f64>,
    m: ArrayView2<'_, f64>,
    rank: usize,
) -> (Array1<f64>, Array2<f64>) {
    let (out_features, in_features) = d.dim();
    // G has no more directions than these.
    let block = (rank + (rank / 4).max(8)).min(out_features).min(in_features);
    let thin = 2 * out_features * in_features + in_features * in_features;
    let square = out_features * out_features;
    let forming = (out_features + in_features) * out_features * in_features;
    let formed = (forming + PRODUCTS * block * square < PRODUCTS * block * thin)
        .then(|| d.dot(&m).dot(&d.t()));
    let times_g = |x: &Array2<f64>| match &formed {
        Some(g) => x.dot(g),
        None => x.dot(&d).dot(&m).dot(&d.t()),
    };

    // The range of D M is that of G.
    let mut x = mixture(block, in_features).dot(&m).dot(&d.t());
    let mut captured = 0.0;
    let mut round = 1;
    loop {
        orthonormalise(&mut x);
        let y = times_g(&x);
        let (values, rotation) = jacobi::eigen(y.dot(&x.t()));
        x = rotation.dot(&x);
        let now = values.slice(s![..rank]).sum();
        if now - captured <= GROWTH * now || round == MAX_ROUNDS {
            return (values.slice_move(s![..rank]), x.slice_move(s![..rank, ..]));
        }
        captured = now;
        round += 1;
        x = chebyshev(x, rotation.dot(&y), &values, times_g);
    }
}

/// `T_n(2 G / μ − 1)` of each row of x, where y = x G, `values` belong to x and μ is the last of
/// them: what G has below μ, it does not enlarge.
fn chebyshev(
    x: Array2<f64>,
    y: Array2<f64>,
    values: &Array1<f64>,
    times_g: impl Fn(&Array2<f64>) -> Array2<f64>,
) -> Array2<f64> {
    let (first, last) = (values[0], values[values.len() - 1]);
    let bound = last.max(first * f64::EPSILON);
    // T_n(cosh t) = cosh(n t), about exp(n t) / 2.
    let rate = (2.0 * first / bound - 1.0).acosh();
    let degree = (AMPLIFICATION.ln() / rate).clamp(1.0, MAX_DEGREE) as usize;
    let (mut before, mut x) = (x.clone(), y * (2.0 / bound) - x);
    for _ in 1..degree {
        let next = times_g(&x) * (4.0 / bound) - &x * 2.0 - before;
        (before, x) = (x, next);
    }
    x
}

/// Makes the rows orthonormal, in their order, by Gram–Schmidt steps that are repeated until they
/// take nothing more away. A row of zeros stays.
fn orthonormalise(x: &mut Array2<f64>) {
    for i in 0..x.nrows() {
        let (before, mut rest) = x.view_mut().split_at(Axis(0), i);
        let mut row = rest.row_mut(0);
        let mut norm = row.dot(&row).sqrt();
        loop {
            for q in before.rows() {
                let share = q.dot(&row);
                row.scaled_add(-share, &q);
            }
            let left = row.dot(&row).sqrt();
            let settled = left >= norm / 2.0;
            norm = left;
            if settled {
                break;
            }
        }
        if norm > 0.0 {
            row /= norm;
        }
    }
}

/// Reproducible numbers in [-1, 1), by SplitMix64 (Steele, Lea & Flood 2014).
fn mixture(rows: usize, columns: usize) -> Array2<f64> {
    let mut state = 0u64;
    Array2::from_shape_simple_fn((rows, columns), || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as i64 as f64 / 2f64.powi(63)
    })
}
