//! [`Backend`]: the operations of a transformer's forward pass and of GPTQ, wherever the matrices
//! live.

use ndarray::{Array2, ArrayView2, CowArray, Ix2};

use crate::{Draw, Error, Hessian, Portable, QuantConfig, Solved, solve::solve_stage};

/// Heads, scale and mask of one attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, a divisor of `heads`; query head h reads head `h · kv_heads / heads`.
    pub kv_heads: usize,
    /// Channels of one head of queries and keys.
    pub head_dim: usize,
    /// Channels of one head of values, and of the result.
    pub value_dim: usize,
    /// Factor on `q · k`.
    pub scale: f32,
    /// `cap · tanh(score / cap)` before anything is masked.
    pub softcap: Option<f32>,
    /// Which keys a query sees.
    pub window: Window,
    /// Valid rows of keys and values of one text, the rows of this call included.
    pub keys: usize,
    /// Texts of equal length that stand one below the other and do not see each other.
    pub texts: usize,
}

/// The keys that a query sees, besides that none lies after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Window {
    /// All of them.
    #[default]
    Full,
    /// The last n > 0, its own included.
    Sliding(usize),
    /// Those of its own run of n > 0 positions: position / n is the same.
    Chunked(usize),
}

impl Window {
    /// The first key that the query at `position` sees. It never falls from one position to the
    /// next.
    ///
    /// ```
    /// use gptq_core::Window;
    ///
    /// assert_eq!(Window::Full.first_key(10), 0);
    /// assert_eq!(Window::Sliding(4).first_key(10), 7);
    /// assert_eq!(Window::Chunked(4).first_key(10), 8);
    /// ```
    pub fn first_key(self, position: usize) -> usize {
        match self {
            Window::Full => 0,
            Window::Sliding(n) => position - position.min(n - 1),
            Window::Chunked(n) => position / n * n,
        }
    }
}

/// What is added to scores, beside `q · k`.
#[derive(Debug)]
pub struct ScoreTerms<'a, T> {
    /// heads × at least `keys`: added to the scaled score of a head with a key. ALiBi.
    pub key_bias: Option<&'a T>,
    /// 1 × heads: one more score per head that takes part in the softmax and has no value.
    pub sinks: Option<&'a T>,
}

// Derived, these would ask for tensors that can be copied, of which there are only borrows here.
impl<T> Clone for ScoreTerms<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for ScoreTerms<'_, T> {}

impl<T> Default for ScoreTerms<'_, T> {
    fn default() -> Self {
        Self { key_bias: None, sinks: None }
    }
}

/// Which channels of a head turn with the position, and how they pair up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RopeShape {
    /// Channels of one head.
    pub head_dim: usize,
    /// First channel of a head that turns; `2 · cos.columns` of them do.
    pub offset: usize,
    /// Channel `2i` pairs with `2i + 1`, instead of `i` with `i + cos.columns`.
    pub interleaved: bool,
}

/// A normalisation of every row, in segments.
#[derive(Debug)]
pub struct Norm<'a, T> {
    /// How a segment is normalised.
    pub kind: NormKind,
    /// Added to the mean square, or to the variance.
    pub eps: f32,
    /// Channels that are normalised together; divides the columns. Those of a head, or all.
    pub segment: usize,
    /// 1 × a divisor of the columns; channel c is multiplied by entry `c mod length`.
    pub weight: Option<&'a T>,
    /// The same, added last.
    pub bias: Option<&'a T>,
}

impl<T> Clone for Norm<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Norm<'_, T> {}

/// The two normalisations in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x²) + eps)`.
    Rms,
    /// `(x − mean) / sqrt(variance + eps)`, with the variance of the population.
    Layer,
}

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pointwise {
    /// `c · x`.
    Scale(f32),
    /// x, but at least −c and at most c.
    Clamp(f32),
    /// `c · tanh(x / c)`.
    SoftCap(f32),
    /// `x · sigmoid(x)`.
    Silu,
    /// `x · Φ(x)`, by the error function.
    Gelu,
    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// A function of gate and up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gate {
    /// `f(gate) · up`.
    Of(Pointwise),
    /// `(u + 1) · g · sigmoid(alpha · g)` with `g = min(gate, limit)` and u = up clamped to ±limit.
    Clamped {
        /// Bound of both.
        limit: f32,
        /// Slope of the sigmoid.
        alpha: f32,
    },
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

    /// Moves a matrix to the device; where it can stay, nothing is copied.
    fn take(&self, a: Array2<f32>) -> Result<Self::Tensor, Error> {
        self.upload(a.view())
    }

    /// Gives memory that nothing holds any more back to the system. A pipeline says this where one
    /// phase ends and the next needs other sizes; what it costs must be small beside a phase.
    fn return_memory(&self) {}

    /// Whether products round their factors to bf16, so that what is only multiplied loses nothing
    /// when it is kept so.
    fn multiplies_bf16(&self) -> bool {
        false
    }

    /// Shows a matrix; where it can be seen, nothing is copied.
    fn look<'a>(&self, a: &'a Self::Tensor) -> Result<CowArray<'a, f32, Ix2>, Error> {
        Ok(self.download(a)?.into())
    }

    /// Copies a matrix back.
    fn download(&self, a: &Self::Tensor) -> Result<Array2<f32>, Error>;

    /// Rows and columns.
    fn dim(&self, a: &Self::Tensor) -> (usize, usize);

    /// A matrix of zeros.
    fn zeros(&self, rows: usize, columns: usize) -> Result<Self::Tensor, Error>;

    /// Room for the keys or values of so many tokens: rows that [`Backend::write_rows`] fills and
    /// [`Backend::attention`] reads, and nothing else does. A backend whose products round their
    /// factors may keep them as it rounds them.
    fn cache(&self, rows: usize, columns: usize) -> Result<Self::Tensor, Error> {
        self.zeros(rows, columns)
    }

    /// `x · wᵀ + bias`: x is tokens × in, w is out × in, bias is 1 × out. The result is
    /// tokens × out.
    fn linear(
        &self,
        x: &Self::Tensor,
        w: &Self::Tensor,
        bias: Option<&Self::Tensor>,
    ) -> Result<Self::Tensor, Error>;

    /// Normalises every row.
    fn norm(&self, x: &Self::Tensor, norm: &Norm<'_, Self::Tensor>) -> Result<Self::Tensor, Error>;

    /// Rotates channels of every head in place. cos and sin are tokens × rotated/2; a pair (a, b)
    /// becomes (a·cos − b·sin, b·cos + a·sin).
    fn rope(
        &self,
        x: &mut Self::Tensor,
        cos: &Self::Tensor,
        sin: &Self::Tensor,
        shape: RopeShape,
    ) -> Result<(), Error>;

    /// Causal softmax attention. q is tokens × heads·head_dim; k and v have at least `shape.keys`
    /// rows of kv_heads·head_dim and kv_heads·value_dim, of which the last `tokens` are those of
    /// the queries. Row r of keys is position r. The result is tokens × heads·value_dim. Of several
    /// texts, each has its own `tokens / texts` queries and exactly `shape.keys` keys.
    fn attention(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        shape: &AttentionShape,
        terms: ScoreTerms<'_, Self::Tensor>,
    ) -> Result<Self::Tensor, Error>;

    /// Applies a function to every entry in place.
    fn apply(&self, x: &mut Self::Tensor, f: Pointwise) -> Result<(), Error>;

    /// Joins gate and up, elementwise.
    fn gated(&self, gate: &Self::Tensor, up: &Self::Tensor, f: Gate)
    -> Result<Self::Tensor, Error>;

    /// `x += y`.
    fn add_assign(&self, x: &mut Self::Tensor, y: &Self::Tensor) -> Result<(), Error>;

    /// Multiplies row r by `factors[r]`, in place.
    fn scale_rows(&self, x: &mut Self::Tensor, factors: &[f32]) -> Result<(), Error>;

    /// Columns by index, counted through the columns of all parts in order: how fused outputs are
    /// taken apart and heads put together. The parts have the same rows.
    fn columns(&self, parts: &[&Self::Tensor], index: &[u32]) -> Result<Self::Tensor, Error>;

    /// Adds `weights[i] · y[i]` to row `rows[i]` of x, for every row i of y, in order: how experts'
    /// results come back to their tokens.
    fn scatter_add(
        &self,
        x: &mut Self::Tensor,
        rows: &[u32],
        weights: &[f32],
        y: &Self::Tensor,
    ) -> Result<(), Error>;

    /// Rows of a table by index: embeddings of token ids.
    fn gather(&self, table: &Self::Tensor, rows: &[u32]) -> Result<Self::Tensor, Error>;

    /// The place of the largest entry of every row, the first of several: tokens that are chosen
    /// where their logits are.
    fn argmax(&self, x: &Self::Tensor) -> Result<Vec<u32>, Error> {
        let first_of_largest = |row: ndarray::ArrayView1<'_, f32>| {
            let better =
                |best: (u32, f32), (i, &x): (u32, &f32)| if x > best.1 { (i, x) } else { best };
            (0..).zip(row).fold((0, f32::NEG_INFINITY), better).0
        };
        Ok(self.look(x)?.rows().into_iter().map(first_of_largest).collect())
    }

    /// A place of every row, drawn by its softmax with a number of [0, 1) per row:
    /// [`Draw::choose`]. Where a number is so close to the border of two places that it depends on
    /// rounding on which side it is, backends may differ.
    fn draw(&self, x: &Self::Tensor, how: Draw, uniform: &[f64]) -> Result<Vec<u32>, Error> {
        let x = self.look(x)?;
        assert_eq!(x.nrows(), uniform.len(), "draw: one number per row");
        Ok(x.rows().into_iter().zip(uniform).map(|(row, &u)| how.choose(row, u)).collect())
    }

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
