//! `H = 2/n · Xᵀ X`: what a layer's inputs say about how much each weight matters.

use ndarray::{Array2, ArrayView2, Axis};

use crate::{ActOrder, DampOutcome, Error, GroupSize, Linalg, QuantConfig, check_finite, order};

/// The running sum `Xᵀ X` of one layer's inputs.
///
/// The codes do not depend on a positive factor on H, because damping is relative to the mean
/// diagonal; the reported loss does. Peers divide by tokens (GPTQModel) or by sequences (the
/// paper's code): the caller of [`Hessian::add_batch`] says which.
///
/// ```
/// use gptq_core::Hessian;
/// use ndarray::array;
///
/// let mut h = Hessian::new(2);
/// h.add_batch(array![[1.0, 2.0], [3.0, 4.0]].view(), 2).unwrap();
/// assert_eq!(h.matrix(), array![[10.0, 14.0], [14.0, 20.0]]);
/// ```
#[derive(Clone, Debug)]
pub struct Hessian {
    sum: Array2<f32>,
    count: u64,
}

impl Hessian {
    /// No input seen yet.
    pub fn new(in_features: usize) -> Self {
        Self { sum: Array2::zeros((in_features, in_features)), count: 0 }
    }

    /// From a sum `Xᵀ X` over `count` samples, computed elsewhere. Only the upper triangle is read.
    ///
    /// # Errors
    /// [`Error::Shape`] if it is not square.
    pub fn from_sum(sum: Array2<f32>, count: u64) -> Result<Self, Error> {
        let n = sum.ncols();
        if sum.nrows() != n {
            return Err(Error::Shape {
                what: "hessian",
                found: [sum.nrows(), n],
                expected: [n, n],
            });
        }
        Ok(Self { sum, count })
    }

    /// From H itself, already normalised.
    ///
    /// # Errors
    /// As [`Hessian::from_sum`].
    pub fn from_matrix(h: Array2<f32>) -> Result<Self, Error> {
        // With n = 2 the factor 2/n is 1.
        Self::from_sum(h, 2)
    }

    /// Width of the layer.
    pub fn in_features(&self) -> usize {
        self.sum.ncols()
    }

    /// Samples seen.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds `x` (tokens × in_features), which counts as `samples` samples: its rows, or the number
    /// of sequences they come from.
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` has another width; the sum is left as it was.
    ///
    /// Costs `tokens · in_features²` multiply-adds; nothing is allocated.
    pub fn add_batch(&mut self, x: ArrayView2<'_, f32>, samples: u64) -> Result<(), Error> {
        if x.ncols() != self.in_features() {
            return Err(Error::Shape {
                what: "layer input",
                found: [x.nrows(), x.ncols()],
                expected: [x.nrows(), self.in_features()],
            });
        }
        ndarray::linalg::general_mat_mul(1.0, &x.t(), &x, 1.0, &mut self.sum);
        self.count += samples;
        Ok(())
    }

    /// Adds what another sum has seen.
    ///
    /// # Errors
    /// [`Error::Shape`] if it belongs to a layer of another width.
    pub fn merge(&mut self, other: &Hessian) -> Result<(), Error> {
        let (n, m) = (self.in_features(), other.in_features());
        if n != m {
            return Err(Error::Shape { what: "hessian", found: [m, m], expected: [n, n] });
        }
        self.sum += &other.sum;
        self.count += other.count;
        Ok(())
    }

    /// `2/n · Xᵀ X`, in × in.
    pub fn matrix(&self) -> Array2<f32> {
        let factor = 2.0 / self.count.max(1) as f32;
        let mut h = self.sum.clone();
        h.mapv_inplace(|v| v * factor);
        copy_upper_to_lower(&mut h);
        h
    }

    /// Orders, damps and factors. The Hessian is consumed: what the solver reads is the factor.
    ///
    /// In the reference's order: dead columns (never-active inputs, zero diagonal) get a one, then
    /// the columns are permuted as `config.act_order` says, then damping is added and raised until
    /// Cholesky succeeds.
    ///
    /// # Errors
    /// [`Error::NoInput`], [`Error::NotFinite`], [`Error::Config`], or
    /// [`Error::NotPositiveDefinite`] when no damping below 1 is enough.
    ///
    /// Costs 2/3 n³ flops per damping tried and one copy of H.
    pub fn finish(self, config: &QuantConfig, linalg: &dyn Linalg) -> Result<InverseFactor, Error> {
        config.validate()?;
        if self.count == 0 {
            return Err(Error::NoInput);
        }
        let factor = 2.0 / self.count as f32;
        let mut h = self.sum;
        h.mapv_inplace(|v| v * factor);
        copy_upper_to_lower(&mut h);
        check_finite("hessian", h.view())?;

        let dead: Vec<bool> = h.diag().iter().map(|&d| d == 0.0).collect();
        for (c, _) in dead.iter().enumerate().filter(|(_, dead)| **dead) {
            h[(c, c)] = 1.0;
        }
        let perm = order::permutation(h.diag(), config.act_order, config.group_size);
        if config.act_order != ActOrder::Natural {
            h = h.select(Axis(0), &perm).select(Axis(1), &perm);
        }
        let (u, damp) = damp_and_factor(h, config, linalg)?;
        let (act_order, group_size) = (config.act_order, config.group_size);
        Ok(InverseFactor { u, perm, dead, damp, act_order, group_size })
    }
}

fn copy_upper_to_lower(h: &mut Array2<f32>) {
    for i in 0..h.nrows() {
        for j in 0..i {
            h[(i, j)] = h[(j, i)];
        }
    }
}

fn damp_and_factor(
    h: Array2<f32>,
    config: &QuantConfig,
    linalg: &dyn Linalg,
) -> Result<(Array2<f32>, DampOutcome), Error> {
    let mean = h.diag().iter().map(|&d| f64::from(d)).sum::<f64>() / h.nrows().max(1) as f64;
    let mut last = (0, 0, 0.0);
    for (attempt, percent) in config.damping.attempts().enumerate() {
        let mut u = h.clone();
        u.diag_mut().mapv_inplace(|d| d + (percent * mean) as f32);
        match linalg.inverse_factor(&mut u) {
            Ok(()) => {
                return Ok((u, DampOutcome { percent, attempts: attempt as u32 + 1 }));
            }
            Err(Error::NonPositivePivot { column, .. }) => {
                last = (column, attempt as u32 + 1, percent);
            }
            Err(other) => return Err(other),
        }
    }
    let (column, attempts, last_percent) = last;
    Err(Error::NotPositiveDefinite { column, attempts, last_percent })
}

/// The upper factor U of the damped, ordered H: `H⁻¹ = Uᵀ U`. One factor serves every linear that
/// reads the same input.
#[derive(Clone, Debug)]
pub struct InverseFactor {
    /// in × in, upper triangular, in processing order.
    pub(crate) u: Array2<f32>,
    /// Processing position → original column.
    pub(crate) perm: Vec<usize>,
    /// By original column: inputs that were zero on every token.
    pub(crate) dead: Vec<bool>,
    damp: DampOutcome,
    act_order: ActOrder,
    group_size: GroupSize,
}

impl InverseFactor {
    /// Width of the layer.
    pub fn in_features(&self) -> usize {
        self.perm.len()
    }

    /// The damping that made the Hessian positive definite.
    pub fn damp(&self) -> DampOutcome {
        self.damp
    }

    /// Processing position → original column.
    pub fn perm(&self) -> &[usize] {
        &self.perm
    }

    /// U itself, in × in, rows and columns in processing order.
    pub fn upper(&self) -> ArrayView2<'_, f32> {
        self.u.view()
    }

    /// How many inputs were zero on every token; their weights become zero.
    pub fn dead_columns(&self) -> usize {
        self.dead.iter().filter(|&&dead| dead).count()
    }

    /// A factor is ordered for one setting; codes made with another would be silently worse.
    pub(crate) fn check(&self, config: &QuantConfig) -> Result<(), Error> {
        let same_groups =
            config.act_order != ActOrder::GroupAware || config.group_size == self.group_size;
        if config.act_order == self.act_order && same_groups {
            return Ok(());
        }
        Err(Error::Config {
            message: format!(
                "the factor was ordered for {:?} with {:?}, the layer asks for {:?} with {:?}",
                self.act_order, self.group_size, config.act_order, config.group_size
            ),
        })
    }
}
