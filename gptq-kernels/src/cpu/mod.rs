//! [`CpuBackend`]: all cores, whatever vector instructions there are.

#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod exp;
mod gemm;
mod gram;
mod isa;
mod linear;
mod norm;
mod packed_matmul;
mod packed_matvec;
mod pointwise;
mod precision;
mod prepare;
mod rope;
mod rows;

use gptq_core::{
    AttentionShape, Backend, Error, Gate, Linalg, Moments, Norm, Pointwise, RopeShape, ScoreTerms,
    SolveJob, Solved, solve_stage,
};
use gptq_pack::{PackedBackend, PackedLinearRef};
use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut2, s};

pub use isa::Isa;
pub use precision::Precision;
pub use prepare::CpuPacked;

/// The CPU, with the instruction set chosen when this is made. A tensor is an `Array2<f32>` in
/// row-major order.
#[derive(Clone, Copy, Debug)]
pub struct CpuBackend {
    isa: Isa,
    precision: Precision,
}

impl CpuBackend {
    /// The fastest kernels this CPU can run.
    pub fn new() -> Self {
        Self::with_isa(Isa::best())
    }

    /// The kernels of one instruction set, for tests and comparisons.
    pub fn with_isa(isa: Isa) -> Self {
        Self { isa, precision: Precision::F32 }
    }

    /// The same kernels with products of other numbers; [`Precision::F32`] unless told.
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// What numbers products are made of here.
    pub fn precision(&self) -> Precision {
        self.precision
    }
}

impl Default for CpuBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl Linalg for CpuBackend {
    fn gemm(
        &self,
        alpha: f32,
        a: ArrayView2<'_, f32>,
        b: ArrayView2<'_, f32>,
        c: ArrayViewMut2<'_, f32>,
    ) {
        gemm::product(alpha, a, b, c, true);
    }
}

impl Backend for CpuBackend {
    type Tensor = Array2<f32>;

    fn upload(&self, a: ArrayView2<'_, f32>) -> Result<Array2<f32>, Error> {
        Ok(a.as_standard_layout().into_owned())
    }

    fn download(&self, a: &Array2<f32>) -> Result<Array2<f32>, Error> {
        Ok(a.clone())
    }

    fn dim(&self, a: &Array2<f32>) -> (usize, usize) {
        a.dim()
    }

    fn zeros(&self, rows: usize, columns: usize) -> Result<Array2<f32>, Error> {
        Ok(Array2::zeros((rows, columns)))
    }

    fn linear(
        &self,
        x: &Array2<f32>,
        w: &Array2<f32>,
        bias: Option<&Array2<f32>>,
    ) -> Result<Array2<f32>, Error> {
        Ok(linear::linear(self.isa, x, w, bias))
    }

    fn norm(&self, x: &Array2<f32>, norm: &Norm<'_, Array2<f32>>) -> Result<Array2<f32>, Error> {
        Ok(norm::norm(self.isa, x, norm))
    }

    fn rope(
        &self,
        x: &mut Array2<f32>,
        cos: &Array2<f32>,
        sin: &Array2<f32>,
        shape: RopeShape,
    ) -> Result<(), Error> {
        rope::rope(x, cos, sin, shape);
        Ok(())
    }

    fn attention(
        &self,
        q: &Array2<f32>,
        k: &Array2<f32>,
        v: &Array2<f32>,
        shape: &AttentionShape,
        terms: ScoreTerms<'_, Array2<f32>>,
    ) -> Result<Array2<f32>, Error> {
        Ok(attention::attention(self.isa, q, k, v, shape, terms))
    }

    fn apply(&self, x: &mut Array2<f32>, f: Pointwise) -> Result<(), Error> {
        pointwise::apply(self.isa, x, f);
        Ok(())
    }

    fn gated(&self, gate: &Array2<f32>, up: &Array2<f32>, f: Gate) -> Result<Array2<f32>, Error> {
        Ok(pointwise::gated(self.isa, gate, up, f))
    }

    fn add_assign(&self, x: &mut Array2<f32>, y: &Array2<f32>) -> Result<(), Error> {
        rows::add_assign(x, y);
        Ok(())
    }

    fn scale_rows(&self, x: &mut Array2<f32>, factors: &[f32]) -> Result<(), Error> {
        rows::scale_rows(x, factors);
        Ok(())
    }

    fn columns(&self, parts: &[&Array2<f32>], index: &[u32]) -> Result<Array2<f32>, Error> {
        Ok(rows::columns(parts, index))
    }

    fn scatter_add(
        &self,
        x: &mut Array2<f32>,
        rows: &[u32],
        weights: &[f32],
        y: &Array2<f32>,
    ) -> Result<(), Error> {
        rows::scatter_add(x, rows, weights, y);
        Ok(())
    }

    fn gather(&self, table: &Array2<f32>, rows: &[u32]) -> Result<Array2<f32>, Error> {
        Ok(rows::gather(table, rows))
    }

    fn write_rows(
        &self,
        target: &mut Array2<f32>,
        at: usize,
        rows: &Array2<f32>,
    ) -> Result<(), Error> {
        target.slice_mut(s![at..at + rows.nrows(), ..]).assign(rows);
        Ok(())
    }

    fn accumulate_gram(&self, h: &mut Array2<f32>, x: &Array2<f32>) -> Result<(), Error> {
        gram::accumulate_gram(h, x);
        Ok(())
    }

    fn accumulate_cross(
        &self,
        d: &mut Array2<f32>,
        native: &Array2<f32>,
        x: &Array2<f32>,
    ) -> Result<(), Error> {
        gram::accumulate_cross(d, native, x);
        Ok(())
    }

    fn solve(
        &self,
        moments: Moments<Array2<f32>>,
        jobs: &[SolveJob<'_>],
    ) -> Result<Vec<Solved>, Error> {
        solve_stage(moments.hessian()?, jobs, self)
    }
}

/// Up to this many tokens, reading the packed words once per token is cheaper than expanding them.
const MATVEC_TOKENS: usize = 4;

impl PackedBackend for CpuBackend {
    type Packed = CpuPacked;

    fn prepare(&self, layer: &PackedLinearRef<'_>) -> Result<CpuPacked, Error> {
        Ok(CpuPacked::new(layer))
    }

    fn packed_linear(&self, x: &Array2<f32>, layer: &CpuPacked) -> Result<Array2<f32>, Error> {
        assert_eq!(x.ncols(), layer.in_features, "packed linear: inputs have another width");
        let mut y = Array2::zeros((x.nrows(), layer.out_features));
        if x.nrows() <= MATVEC_TOKENS {
            for (x, mut y) in x.rows().into_iter().zip(y.rows_mut()) {
                let x = x.to_slice().expect("tensors are row-major");
                let y = y.as_slice_mut().expect("rows of a fresh array");
                packed_matvec::packed_matvec(self.isa, layer, x, y);
            }
        } else {
            packed_matmul::packed_matmul(self.isa, layer, x.view(), y.view_mut());
        }
        if let Some(bias) = &layer.bias {
            y += &ArrayView1::from(bias);
        }
        Ok(y)
    }

    fn dequantize(&self, layer: &CpuPacked) -> Result<Array2<f32>, Error> {
        Ok(packed_matmul::dequantize(self.isa, layer))
    }
}
