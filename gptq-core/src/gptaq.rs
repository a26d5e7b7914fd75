//! GPTAQ (Li et al. 2025): weights that also make up for the error in their inputs.
//!
//! GPTQ asks for `X Qᵀ ≈ X Wᵀ`, but what the layer should return is `Xn Wᵀ`, with the inputs Xn of
//! the unquantized model. With `D = 2/n · (Xn − X)ᵀ X`, what column c of the weights loses to the
//! difference in its input is spread over the columns behind it like a rounding error:
//!
//! ```text
//! P = alpha · striu(D Uᵀ) · U          W[:, k] += w · P[c, k]   for k > c
//! ```
//!
//! where striu keeps what is strictly above the diagonal.

use ndarray::{Array2, Axis, s};
use rayon::prelude::*;

use crate::{Error, Linalg};

/// Rows of P per task, and columns per product.
const PANEL: usize = 128;

/// P from D and U, all in processing order.
///
/// Both products skip the half that is zero: 4/3 n³ flops, on the caller's rayon pool.
pub(crate) fn shift(
    d: &Array2<f32>,
    u: &Array2<f32>,
    alpha: f32,
    linalg: &dyn Linalg,
) -> Array2<f32> {
    let n = u.nrows();
    let mut p = Array2::zeros((n, n));
    let panels: Vec<_> = p.axis_chunks_iter_mut(Axis(0), PANEL).collect();
    panels.into_par_iter().enumerate().for_each(|(i, mut panel)| {
        let first = i * PANEL;
        let rows = first..first + panel.nrows();
        // The rows of striu(D Uᵀ), from column `first` on.
        let mut t = Array2::<f32>::zeros((panel.nrows(), n - first));
        for start in (first..n).step_by(PANEL) {
            let end = (start + PANEL).min(n);
            let mut block = t.slice_mut(s![.., start - first..end - first]);
            let (d, u_rows) =
                (d.slice(s![rows.clone(), start..]), u.slice(s![start..end, start..]));
            linalg.gemm(alpha, d, u_rows.t(), block.view_mut());
            if start == first {
                for (r, mut row) in block.rows_mut().into_iter().enumerate() {
                    row.slice_mut(s![..=r]).fill(0.0);
                }
            }
            let t = t.slice(s![.., ..end - first]);
            let u = u.slice(s![first..end, start..end]);
            linalg.gemm(1.0, t, u, panel.slice_mut(s![.., start..end]));
        }
    });
    p
}

pub(crate) fn no_native_inputs(alpha: f32) -> Error {
    Error::Config {
        message: format!(
            "gptaq_alpha is {alpha}, but how the inputs differ from the unquantized model's is not \
             known; give native inputs too, or set gptaq_alpha to 0"
        ),
    }
}
