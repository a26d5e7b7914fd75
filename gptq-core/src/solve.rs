//! One layer from weights and Hessian to codes, with what it cost.

use ndarray::ArrayView2;

use crate::{
    DampOutcome, Error, Hessian, InverseFactor, Linalg, QuantConfig, QuantizedMatrix, SolveJob,
    factor, loss, quantize,
};

/// A quantized layer and the figures a report needs.
#[derive(Clone, Debug)]
pub struct Solved {
    /// Codes and grids.
    pub quantized: QuantizedMatrix,
    /// `½ tr((W − Q) H (W − Q)ᵀ)` for the damped H, summed over the layer.
    pub loss: f64,
    /// The same for round-to-nearest with the same grid settings.
    pub rtn_loss: f64,
    /// The damping it took.
    pub damp: DampOutcome,
    /// Inputs that were zero on every token.
    pub dead_columns: usize,
}

/// Quantizes one layer with a factor that its siblings may share.
///
/// # Errors
/// As [`quantize`].
pub fn solve_with(
    w: ArrayView2<'_, f32>,
    factor: &InverseFactor,
    config: &QuantConfig,
    linalg: &dyn Linalg,
) -> Result<Solved, Error> {
    let (quantized, loss) = quantize(w, factor, config, linalg)?;
    Ok(Solved {
        quantized,
        loss,
        rtn_loss: loss::rtn_loss(w, factor, config, linalg)?,
        damp: factor.damp(),
        dead_columns: factor.dead_columns(),
    })
}

/// Quantizes one layer.
///
/// # Errors
/// As [`Hessian::finish`] and [`quantize`].
///
/// ```
/// use gptq_core::{Hessian, Portable, QuantConfig, solve};
/// use ndarray::Array2;
///
/// let x = Array2::from_shape_fn((64, 8), |(t, c)| ((t * 7 + c * 3) % 11) as f32 - 5.0);
/// let w = Array2::from_shape_fn((4, 8), |(r, c)| ((r * 5 + c * 2) % 7) as f32 - 3.0);
/// let mut hessian = Hessian::new(8);
/// hessian.add_batch(x.view(), 64).unwrap();
/// let solved = solve(w.view(), hessian, &QuantConfig::default(), &Portable).unwrap();
/// assert_eq!(solved.quantized.codes.dim(), (4, 8));
/// ```
pub fn solve(
    w: ArrayView2<'_, f32>,
    hessian: Hessian,
    config: &QuantConfig,
    linalg: &dyn Linalg,
) -> Result<Solved, Error> {
    solve_with(w, &hessian.finish(config, linalg)?, config, linalg)
}

/// Quantizes linears that read the same input. Those that agree on order, damping and alpha share
/// one factor, which for an ordinary run is all of them.
///
/// # Errors
/// As [`solve`], at the first job that fails.
///
/// Memory: the Hessian, which the last factor replaces, and with factors that differ a second
/// matrix of its size.
pub fn solve_stage(
    hessian: Hessian,
    jobs: &[SolveJob<'_>],
    linalg: &dyn Linalg,
) -> Result<Vec<Solved>, Error> {
    let mut hessian = Some(hessian);
    let mut results: Vec<Option<Solved>> = jobs.iter().map(|_| None).collect();
    while let Some(first) = results.iter().position(Option::is_none) {
        let config = jobs[first].config;
        let waiting: Vec<usize> = (first..jobs.len()).filter(|&i| results[i].is_none()).collect();
        let (turn, rest): (Vec<usize>, Vec<usize>) =
            waiting.into_iter().partition(|&i| factor::shared(jobs[i].config, config));
        // The last factor takes the Hessian's place in memory.
        let needed_again = hessian.as_ref().filter(|_| !rest.is_empty()).cloned();
        let Some(consumed) = std::mem::replace(&mut hessian, needed_again) else { break };
        let made = consumed.finish(config, linalg)?;
        for i in turn {
            results[i] = Some(solve_with(jobs[i].weight, &made, jobs[i].config, linalg)?);
        }
    }
    Ok(results.into_iter().flatten().collect())
}
