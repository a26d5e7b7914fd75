//! A backend whose Hessians cannot always be factored: what real inputs hardly ever do.

use gptq_core::{
    AttentionShape, Backend, Error, Gate, Moments, Norm, Pointwise, Reference, RopeShape,
    ScoreTerms, SolveJob, Solved, Unsolved,
};
use gptq_pack::{PackedBackend, PackedLinearRef};
use ndarray::{Array2, ArrayView2};

/// What nothing makes positive definite.
pub(crate) fn indefinite() -> Array2<f32> {
    Array2::from_shape_fn((64, 64), |(r, c)| if r == c { 1.0 } else { 2.5 })
}

/// The plain backend, except that nothing helps linears with 64 inputs but damping above a tenth.
pub(crate) struct Stubborn;

type Matrix = Array2<f32>;

impl Backend for Stubborn {
    type Tensor = Matrix;

    fn solve(&self, moments: Moments<Matrix>, jobs: &[SolveJob<'_>]) -> Result<Vec<Solved>, Error> {
        if moments.gram.ncols() == 64 && jobs.iter().any(|job| job.config.damping.percent < 0.1) {
            return Err(Error::NotPositiveDefinite {
                column: 3,
                attempts: 7,
                last_percent: 0.99,
                unsolved: Some(Box::new(Unsolved { hessian: indefinite(), cross: None })),
            });
        }
        Reference.solve(moments, jobs)
    }

    fn upload(&self, a: ArrayView2<'_, f32>) -> Result<Matrix, Error> {
        Reference.upload(a)
    }

    fn download(&self, a: &Matrix) -> Result<Matrix, Error> {
        Reference.download(a)
    }

    fn dim(&self, a: &Matrix) -> (usize, usize) {
        Reference.dim(a)
    }

    fn zeros(&self, rows: usize, columns: usize) -> Result<Matrix, Error> {
        Reference.zeros(rows, columns)
    }

    fn linear(&self, x: &Matrix, w: &Matrix, bias: Option<&Matrix>) -> Result<Matrix, Error> {
        Reference.linear(x, w, bias)
    }

    fn norm(&self, x: &Matrix, norm: &Norm<'_, Matrix>) -> Result<Matrix, Error> {
        Reference.norm(x, norm)
    }

    fn rope(&self, x: &mut Matrix, cos: &Matrix, sin: &Matrix, of: RopeShape) -> Result<(), Error> {
        Reference.rope(x, cos, sin, of)
    }

    fn attention(
        &self,
        q: &Matrix,
        k: &Matrix,
        v: &Matrix,
        shape: &AttentionShape,
        terms: ScoreTerms<'_, Matrix>,
    ) -> Result<Matrix, Error> {
        Reference.attention(q, k, v, shape, terms)
    }

    fn apply(&self, x: &mut Matrix, f: Pointwise) -> Result<(), Error> {
        Reference.apply(x, f)
    }

    fn gated(&self, gate: &Matrix, up: &Matrix, f: Gate) -> Result<Matrix, Error> {
        Reference.gated(gate, up, f)
    }

    fn scale_rows(&self, x: &mut Matrix, factors: &[f32]) -> Result<(), Error> {
        Reference.scale_rows(x, factors)
    }

    fn columns(&self, parts: &[&Matrix], index: &[u32]) -> Result<Matrix, Error> {
        Reference.columns(parts, index)
    }

    fn scatter_add(
        &self,
        x: &mut Matrix,
        rows: &[u32],
        weights: &[f32],
        y: &Matrix,
    ) -> Result<(), Error> {
        Reference.scatter_add(x, rows, weights, y)
    }

    fn add_assign(&self, x: &mut Matrix, y: &Matrix) -> Result<(), Error> {
        Reference.add_assign(x, y)
    }

    fn gather(&self, table: &Matrix, rows: &[u32]) -> Result<Matrix, Error> {
        Reference.gather(table, rows)
    }

    fn write_rows(&self, target: &mut Matrix, at: usize, rows: &Matrix) -> Result<(), Error> {
        Reference.write_rows(target, at, rows)
    }

    fn accumulate_gram(&self, h: &mut Matrix, x: &Matrix) -> Result<(), Error> {
        Reference.accumulate_gram(h, x)
    }

    fn accumulate_cross(&self, d: &mut Matrix, native: &Matrix, x: &Matrix) -> Result<(), Error> {
        Reference.accumulate_cross(d, native, x)
    }
}

impl PackedBackend for Stubborn {
    type Packed = <Reference as PackedBackend>::Packed;

    fn prepare(&self, layer: &PackedLinearRef<'_>) -> Result<Self::Packed, Error> {
        Reference.prepare(layer)
    }

    fn prepare_dense(
        &self,
        weight: ArrayView2<'_, f32>,
        bias: Option<&[f32]>,
    ) -> Result<Self::Packed, Error> {
        Reference.prepare_dense(weight, bias)
    }

    fn linears(&self, x: &Matrix, layers: &[&Self::Packed]) -> Result<Vec<Matrix>, Error> {
        Reference.linears(x, layers)
    }

    fn packed_bytes(&self, layer: &Self::Packed) -> u64 {
        Reference.packed_bytes(layer)
    }

    fn dequantize(&self, layer: &Self::Packed) -> Result<Matrix, Error> {
        Reference.dequantize(layer)
    }
}
