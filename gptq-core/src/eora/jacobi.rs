//! Small symmetric eigenproblems, by Jacobi's rotations.

use ndarray::{Array1, Array2, Axis, Zip, s};

/// Sweeps converge quadratically; ten are many.
const MAX_SWEEPS: usize = 40;

/// Eigenvalues of a symmetric `a`, descending, and eigenvectors in rows, by cyclic sweeps until no
/// entry off the diagonal exceeds what rounding makes of the largest on it.
///
/// Costs about `6 n³` flops a sweep.
pub(super) fn eigen(mut a: Array2<f64>) -> (Array1<f64>, Array2<f64>) {
    let n = a.nrows();
    let mut vectors = Array2::eye(n);
    let negligible = f64::EPSILON * a.diag().fold(0f64, |most, d| most.max(d.abs()));
    for _ in 0..MAX_SWEEPS {
        let mut rotated = false;
        for q in 1..n {
            for p in 0..q {
                let off = a[(p, q)];
                if off.abs() <= negligible {
                    continue;
                }
                rotated = true;
                // The smaller of the two angles that make a[p, q] zero.
                let cotangent = (a[(q, q)] - a[(p, p)]) / (2.0 * off);
                let tangent = cotangent.signum() / (cotangent.abs() + cotangent.hypot(1.0));
                let cosine = tangent.hypot(1.0).recip();
                let rotation = (cosine, cosine * tangent);
                rotate_rows(&mut a, p, q, rotation);
                a.swap_axes(0, 1);
                rotate_rows(&mut a, p, q, rotation);
                (a[(p, q)], a[(q, p)]) = (0.0, 0.0);
                rotate_rows(&mut vectors, p, q, rotation);
            }
        }
        if !rotated {
            break;
        }
    }
    let values = a.diag();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| values[j].total_cmp(&values[i]));
    (values.select(Axis(0), &order), vectors.select(Axis(0), &order))
}

fn rotate_rows(a: &mut Array2<f64>, p: usize, q: usize, (cosine, sine): (f64, f64)) {
    let (x, y) = a.multi_slice_mut((s![p, ..], s![q, ..]));
    Zip::from(x).and(y).for_each(|x, y| {
        (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checked by hand: 2 − 2 cos(π j / 4) for the second difference on three points.
    #[test]
    fn second_difference() {
        let a = ndarray::array![[2.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 2.0]];
        let (values, vectors) = eigen(a.clone());
        let root = 2f64.sqrt();
        for (value, expected) in values.iter().zip([2.0 + root, 2.0, 2.0 - root]) {
            assert!((value - expected).abs() < 1e-14);
        }
        let again = vectors.t().dot(&Array2::from_diag(&values)).dot(&vectors);
        assert!((again - a).iter().all(|d| d.abs() < 1e-14));
        let gram = vectors.dot(&vectors.t());
        assert!((gram - Array2::<f64>::eye(3)).iter().all(|d| d.abs() < 1e-14));
    }
}
