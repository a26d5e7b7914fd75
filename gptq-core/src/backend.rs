//! [`Backend`]: the operations of a transformer's forward pass and of GPTQ, wherever the matrices
//! live.

use ndarray::{Array2, ArrayView2};

use crate::{Error, Hessian, Portable, QuantConfig, Solved, solve::solve_stage};

/// Heads and scale of one attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; query head h reads head `h · kv_heads / heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Factor on `q · k` before softmax.
    pub scale: f32,
    /// Valid rows of keys and values, the rows of this call included.
    pub keys: usize,
}

/// One linear of a stage, to be quantized with the Hessian it shares with its siblings.
#[derive(Clone, Copy, Debug)]
pub struct SolveJob<'a> {
    /// out × in.
    pub weight: ArrayView2<'a, f32>,
    /// What to quantize it to.
    pub config: &'a QuantConfig,
}

/// What a stage's input sums up to: the results of [`Backend::accumulate_gram`] and
/// [`Backend::accumulate_cross`].
#[derive(Clone, Debug)]
pub struct Moments<T> {
    /// `Xᵀ X`, in × in; only the upper triangle is read.
    pub gram: T,
    /// `(Xn − X)ᵀ X`, in × in, for GPTAQ.
    pub cross: Option<T>,
    /// Rows of X.
    pub tokens: u64,
}

impl Moments<Array2<f32>> {
    /// The same, ready to be factored.
    ///
    /// # Errors
    /// [`Error::Shape`] if a sum is not square, or the two are of different widths.
    pub fn hessian(self) -> Result<Hessian, Error> {
        let hessian = Hessian::from_sum(self.gram, self.tokens)?;
        match self.cross {
            Some(cross) => hessian.with_cross(cross),
            None => Ok(hessian),
        }
    }
}

/// A place to compute. Tensors are row-major f32 matrices: a token per row, a channel per column.
///
/// Implementations differ in speed, never in meaning: [`crate::Reference`] is the definition each
/// is tested against, and results must not depend on the number of threads. Operations fail only
/// for the world's reasons (device lost, out of memory, [`Error::Backend`]); operands whose shapes
/// do not fit are the caller's bug and panic.
pub trait Backend: Send + Sync {
    /// A matrix on the device.
    type Tensor: Send + Sync;

    /// Copies a matrix to the device.
    fn upload(&self, a: ArrayView2<'_, f32>) -> Result<Self::Tensor, Error>;

    /// Copies a matrix back.
    fn download(&self, a: &Self::Tensor) -> Result<Array2<f32>, Error>;

    /// Rows and columns.
    fn dim(&self, a: &Self::Tensor) -> (usize, usize);

    /// A matrix of zeros.
    fn zeros(&self, rows: usize, columns: usize) -> Result<Self::Tensor, Error>;

    /// `x · wᵀ + bias`: x is tokens × in, w is out × in, bias is 1 × out. The result is
    /// tokens × out.
    fn linear(
        &self,
        x: &Self::Tensor,
        w: &Self::Tensor,
        bias: Option<&Self::Tensor>,
    ) -> Result<Self::Tensor, Error>;

    /// `x / sqrt(mean(x²) + eps) · weight`, row by row; weight is 1 × columns.
    fn rms_norm(
        &self,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        eps: f32,
    ) -> Result<Self::Tensor, Error>;

    /// Rotates the first `2 · cos.columns` channels of every head in place, pairing channel i with
    /// channel i + cos.columns. cos and sin are tokens × rotated/2.
    fn rope(
        &self,
        x: &mut Self::Tensor,
        cos: &Self::Tensor,
        sin: &Self::Tensor,
        head_dim: usize,
    ) -> Result<(), Error>;

    /// Causal softmax attention. q is tokens × heads·head_dim; k and v have at least `shape.keys`
    /// rows of kv_heads·head_dim, of which the last `tokens` are those of the queries.
    fn attention(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        shape: &AttentionShape,
    ) -> Result<Self::Tensor, Error>;

    /// `silu(gate) · up`, elementwise.
    fn gated_silu(&self, gate: &Self::Tensor, up: &Self::Tensor) -> Result<Self::Tensor, Error>;

    /// `x += y`.
    fn add_assign(&self, x: &mut Self::Tensor, y: &Self::Tensor) -> Result<(), Error>;

    /// Rows of a table by index: embeddings of token ids.
    fn gather(&self, table: &Self::Tensor, rows: &[u32]) -> Result<Self::Tensor, Error>;

    /// Overwrites rows `at..` of `target`: new keys and values enter the cache.
    fn write_rows(
        &self,
        target: &mut Self::Tensor,
        at: usize,
        rows: &Self::Tensor,
    ) -> Result<(), Error>;

    /// `h += xᵀ · x`; only the upper triangle is defined afterwards. x is tokens × in.
    fn accumulate_gram(&self, h: &mut Self::Tensor, x: &Self::Tensor) -> Result<(), Error>;

    /// `d += (native − x)ᵀ · x`, all of it: how inputs differ from those of the unquantized model
    /// (`native`), against the inputs themselves. Both are tokens × in.
    fn accumulate_cross(
        &self,
        d: &mut Self::Tensor,
        native: &Self::Tensor,
        x: &Self::Tensor,
    ) -> Result<(), Error>;

    /// Quantizes the linears of one stage. Results come in the order of the jobs.
    ///
    /// # Errors
    /// As [`Hessian::finish`] and [`crate::quantize`].
    fn solve(
        &self,
        moments: Moments<Self::Tensor>,
        jobs: &[SolveJob<'_>],
    ) -> Result<Vec<Solved>, Error> {
        let Moments { gram, cross, tokens } = moments;
        let gram = self.download(&gram)?;
        let cross = cross.map(|cross| self.download(&cross)).transpose()?;
        solve_stage(Moments { gram, cross, tokens }.hessian()?, jobs, &Portable)
    }
}
