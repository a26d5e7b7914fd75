//! `H = 2/n · Xᵀ X`: what a layer's inputs say about how much each weight matters.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, linalg::general_mat_mul};

use crate::Error;

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
    pub(crate) sum: Array2<f32>,
    /// `(Xn − X)ᵀ X` over the same samples; those seen without native inputs add nothing.
    pub(crate) cross: Option<Array2<f32>>,
    pub(crate) count: u64,
}

impl Hessian {
    /// No input seen yet.
    pub fn new(in_features: usize) -> Self {
        Self { sum: Array2::zeros((in_features, in_features)), cross: None, count: 0 }
    }

    /// From a sum `Xᵀ X` over `count` samples, computed elsewhere. Only the upper triangle is read.
    ///
    /// # Errors
    /// [`Error::Shape`] if it is not square.
    pub fn from_sum(sum: Array2<f32>, count: u64) -> Result<Self, Error> {
        check_square("hessian", &sum, sum.ncols())?;
        Ok(Self { sum, cross: None, count })
    }

    /// Adds the sum `(Xn − X)ᵀ X` over the same samples, which GPTAQ needs: rows are what the
    /// inputs of the unquantized model (`Xn`) have more, columns are the inputs X themselves.
    ///
    /// # Errors
    /// [`Error::Shape`] if it belongs to a layer of another width.
    pub fn with_cross(mut self, cross: Array2<f32>) -> Result<Self, Error> {
        check_square("cross moment", &cross, self.in_features())?;
        self.cross = Some(cross);
        Ok(self)
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
        check_dim("layer input", x, [x.nrows(), self.in_features()])?;
        general_mat_mul(1.0, &x.t(), &x, 1.0, &mut self.sum);
        self.count += samples;
        Ok(())
    }

    /// As [`Hessian::add_batch`], and remembers how `x` differs from `native`, what the layer would
    /// read at the same tokens had nothing before it been quantized. GPTAQ makes up for that too.
    ///
    /// # Errors
    /// [`Error::Shape`] if the two do not agree with each other or with the layer.
    ///
    /// Costs twice as much as [`Hessian::add_batch`], and one copy of `x`.
    pub fn add_batch_with_native(
        &mut self,
        x: ArrayView2<'_, f32>,
        native: ArrayView2<'_, f32>,
        samples: u64,
    ) -> Result<(), Error> {
        check_dim("native layer input", native, [x.nrows(), x.ncols()])?;
        self.add_batch(x, samples)?;
        let cross = self.cross.get_or_insert_with(|| Array2::zeros(self.sum.dim()));
        general_mat_mul(1.0, &(&native - &x).t(), &x, 1.0, cross);
        Ok(())
    }

    /// Adds what another sum has seen.
    ///
    /// # Errors
    /// [`Error::Shape`] if it belongs to a layer of another width.
    pub fn merge(&mut self, other: &Hessian) -> Result<(), Error> {
        check_square("hessian", &other.sum, self.in_features())?;
        self.sum += &other.sum;
        if let Some(other) = &other.cross {
            *self.cross.get_or_insert_with(|| Array2::zeros(other.dim())) += other;
        }
        self.count += other.count;
        Ok(())
    }

    /// `2/n · Xᵀ X`, in × in.
    pub fn matrix(&self) -> Array2<f32> {
        symmetric(self.sum.clone(), 2.0 / self.count.max(1) as f32)
    }

    /// `2/n · (Xn − X)ᵀ X`, in × in, if native inputs were seen.
    pub fn cross(&self) -> Option<Array2<f32>> {
        self.cross.as_ref().map(|cross| cross * (2.0 / self.count.max(1) as f32))
    }
}

/// The whole of a scaled matrix whose upper triangle is known.
pub(crate) fn symmetric(mut upper: Array2<f32>, factor: f32) -> Array2<f32> {
    upper *= factor;
    mirror(upper.view_mut());
    upper
}

/// Copies the upper triangle to the lower one, block by block: a column of a wide matrix does not
/// stay in any cache.
pub(crate) fn mirror(mut a: ArrayViewMut2<'_, f32>) {
    const BLOCK: usize = 64;
    let n = a.nrows();
    for top in (0..n).step_by(BLOCK) {
        for left in (top..n).step_by(BLOCK) {
            for i in top..n.min(top + BLOCK) {
                (left.max(i)..n.min(left + BLOCK)).for_each(|j| a[(j, i)] = a[(i, j)]);
            }
        }
    }
}

fn check_square(what: &'static str, a: &Array2<f32>, n: usize) -> Result<(), Error> {
    check_dim(what, a.view(), [n, n])
}

fn check_dim(
    what: &'static str,
    a: ArrayView2<'_, f32>,
    expected: [usize; 2],
) -> Result<(), Error> {
    let found = [a.nrows(), a.ncols()];
    if found == expected { Ok(()) } else { Err(Error::Shape { what, found, expected }) }
}
