//! EoRA: a low-rank correction that a quantized layer carries beside its codes, fitted to the
//! inputs the layer sees (Liu et al. 2024, "EoRA: Fine-tuning-free Compensation for Compressed LLM
//! with Eigenspace Low-Rank Approximation").

mod jacobi;
mod subspace;

use ndarray::{Array2, ArrayView2};

use crate::{Error, check_finite};

/// A correction of rank r: the layer computes `y += (x Aᵀ) Bᵀ`.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// r × in.
    pub a: Array2<f32>,
    /// out × r.
    pub b: Array2<f32>,
}

/// The correction of rank `rank` that takes most of the error `dw = W − Q` (out × in) off the
/// layer's outputs: it minimises `‖X (dw − B A)ᵀ‖²`, which is `tr((dw − BA) m (dw − BA)ᵀ)`, for the
/// second moment `m = Xᵀ X` (in × in, symmetric, positive semidefinite but for rounding).
///
/// With any root `m = S Sᵀ` the objective is `‖dw S − B A S‖²`. By Eckart and Young the projection
/// `B A = U_r U_rᵀ dw` attains its minimum, where U_r holds the first r left singular vectors of
/// `dw S`, and those are the eigenvectors of `G = dw m dwᵀ`: no root is needed, and no inverse.
/// With `Σ²` the eigenvalues of G, the factors are balanced: `B = U_r √Σ_r`, `A = Σ_r^-½ U_rᵀ dw`,
/// so that `Bᵀ B = A m Aᵀ = Σ_r`.
///
/// Where m is singular the minimum is not unique: what `B A` does to inputs that never occur is
/// free. The paper's is zero there. Here it is what `U_r U_rᵀ dw` does, so that no input at all has
/// a larger error with the correction than without. On the inputs that occur the two agree.
/// Eigenvalues of G that rounding in f64 could have made, up to `max(out, in) · 2⁻⁵²` of the
/// largest, count as zero and leave zeros in A and B. Multiplying m by c > 0 multiplies B by c^¼
/// and A by c^-¼, so `B A` stays, and `Hessian::matrix` may be passed as it is.
///
/// The vectors come from a subspace iteration with a few more directions than `rank` (Halko,
/// Martinsson & Tropp 2011), which stops when a round adds less than 10⁻¹² of what they capture of
/// the objective.
///
/// # Errors
/// [`Error::Shape`], [`Error::NotFinite`]; [`Error::Config`] for a rank of 0 or above
/// `min(out, in)`, and for a second moment whose trace is not positive.
///
/// With `k = rank + max(8, rank / 4)`, costs a few dozen products of `k · in · (2 out + in)`
/// multiply-adds in f64, or `k · out²` each after `out · in · (out + in)` once, whichever is less,
/// and a few times `50 k³` for small eigenproblems. All of it runs on the calling thread: results
/// do not depend on how many there are, and layers can be corrected side by side. Memory: f64
/// copies of `dw` and `m`, and G where it is formed.
///
/// ```
/// use gptq_core::eora;
/// use ndarray::array;
///
/// // The second input is always zero: rank one is enough for the outputs.
/// let dw = array![[0.3, -0.1], [0.2, 0.4f32]];
/// let low_rank = eora(dw.view(), array![[4.0, 0.0], [0.0, 0.0]].view(), 1)?;
/// let left = dw - low_rank.b.dot(&low_rank.a);
/// assert!(left.column(0).iter().all(|d| d.abs() < 1e-6));
/// # Ok::<(), gptq_core::Error>(())
/// ```
pub fn eora(
    dw: ArrayView2<'_, f32>,
    m: ArrayView2<'_, f32>,
    rank: usize,
) -> Result<LowRank, Error> {
    let (out_features, in_features) = dw.dim();
    if m.dim() != (in_features, in_features) {
        return Err(Error::Shape {
            what: "second moment",
            found: [m.nrows(), m.ncols()],
            expected: [in_features, in_features],
        });
    }
    if !(1..=out_features.min(in_features)).contains(&rank) {
        let message = format!(
            "rank is {rank}, but a correction of a layer {out_features} × {in_features} has a rank \
             of 1 to {}",
            out_features.min(in_features)
        );
        return Err(Error::Config { message });
    }
    check_finite("weight error", dw)?;
    check_finite("second moment", m)?;
    let (dw, m) = (dw.mapv(f64::from), m.mapv(f64::from));
    let trace = m.diag().sum();
    if trace <= 0.0 {
        let message = format!(
            "the second moment of the inputs has the trace {trace}, so no input was ever active; \
             feed calibration tokens first"
        );
        return Err(Error::Config { message });
    }

    let (values, vectors) = subspace::leading(dw.view(), m.view(), rank);
    let noise = values[0] * out_features.max(in_features) as f64 * f64::EPSILON;
    let (mut b, mut a) = (vectors.t().to_owned(), vectors.dot(&dw));
    for (r, &value) in values.iter().enumerate() {
        // √σ of σ², and of a σ of zero nothing remains on either side.
        let root = value.max(0.0).sqrt().sqrt();
        let (left, right) = if value > noise { (root, 1.0 / root) } else { (0.0, 0.0) };
        b.column_mut(r).mapv_inplace(|v| v * left);
        a.row_mut(r).mapv_inplace(|v| v * right);
    }
    Ok(LowRank { a: a.mapv(|v| v as f32), b: b.mapv(|v| v as f32) })
}
