//! [`CpuBackend`]: all cores, whatever vector instructions there are.

#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod bf16;
mod exp;
mod gemm;
mod gram;
mod isa;
mod linear;
mod norm;
mod one_query;
#[cfg(target_arch = "x86_64")]
mod one_query_avx512;
mod packed;
mod peak;
mod pointwise;
mod precision;
mod rope;
mod rows;
mod share;

use gptq_core::{
    AttentionShape, Backend, Error, Gate, Linalg, Loop, Moments, Norm, Pointwise, RopeShape,
    ScoreTerms, SolveJob, Solved, solve_stage,
};
use gptq_pack::{PackedBackend, PackedLinearRef};
use ndarray::{Array2, ArrayView2, ArrayViewMut2, CowArray, Ix2, s};

pub use isa::Isa;
pub(crate) use isa::Kernel;
pub use packed::CpuPacked;
pub(crate) use packed::{Line, Lines};
pub(crate) use peak::int8_peak;
pub use precision::Precision;

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

    /// The same kernels with products of other numbers; [`Precision::F32`] unless told, and where
    /// the CPU has nothing faster for them.
    pub fn with_precision(self, precision: Precision) -> Self {
        let slow = precision == Precision::Bf16 && !bf16::available(self.isa);
        Self { precision: if slow { Precision::F32 } else { precision }, ..self }
    }

    /// Whether dense products round their factors to bf16.
    fn in_bf16(&self) -> bool {
        self.precision >= Precision::Bf16 && bf16::available(self.isa)
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
        gemm::product(self.isa, alpha, a, b, c, true);
    }

    fn run(&self, work: Loop<'_>) {
        self.isa.run(SolverLoop(work));
    }
}

/// One of the solver's loops: no product in it is fused, whatever the instructions.
struct SolverLoop<'a>(Loop<'a>);

impl Kernel for SolverLoop<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        self.0.run();
    }
}

impl Backend for CpuBackend {
    type Tensor = Array2<f32>;

    fn upload(&self, a: ArrayView2<'_, f32>) -> Result<Array2<f32>, Error> {
        Ok(a.as_standard_layout().into_owned())
    }

    fn take(&self, a: Array2<f32>) -> Result<Array2<f32>, Error> {
        Ok(if a.is_standard_layout() { a } else { a.as_standard_layout().into_owned() })
    }

    fn look<'a>(&self, a: &'a Array2<f32>) -> Result<CowArray<'a, f32, Ix2>, Error> {
        Ok(a.into())
    }

    fn return_memory(&self) {
        crate::return_memory();
    }

    fn multiplies_bf16(&self) -> bool {
        self.in_bf16()
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
        let bias = bias.map(rows::row_major);
        Ok(linear::linear(self.isa, self.in_bf16(), x, w.view(), bias))
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
        let queries = q.nrows() / shape.texts;
        Ok(if self.in_bf16() && queries >= linear::FEW {
            bf16::attention(self.isa, q, k, v, shape, terms)
        } else {
            attention::attention(self.isa, q, k, v, shape, terms)
        })
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
        gram::accumulate_gram(self.isa, self.in_bf16(), h, x);
        Ok(())
    }

    fn accumulate_cross(
        &self,
        d: &mut Array2<f32>,
        native: &Array2<f32>,
        x: &Array2<f32>,
    ) -> Result<(), Error> {
        gram::accumulate_cross(self.isa, self.in_bf16(), d, native, x);
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

impl PackedBackend for CpuBackend {
    type Packed = CpuPacked;

    fn prepare(&self, layer: &PackedLinearRef<'_>) -> Result<CpuPacked, Error> {
        Ok(CpuPacked::packed(layer))
    }

    fn prepare_dense(
        &self,
        weight: ArrayView2<'_, f32>,
        bias: Option<&[f32]>,
    ) -> Result<CpuPacked, Error> {
        Ok(CpuPacked::dense(self.precision, weight, bias))
    }

    fn prepare_for_many_tokens(
        &self,
        weight: Array2<f32>,
        bias: Option<&[f32]>,
    ) -> Result<CpuPacked, Error> {
        Ok(CpuPacked::for_many_tokens(self.isa, self.in_bf16(), weight, bias))
    }

    fn linears(&self, x: &Array2<f32>, layers: &[&CpuPacked]) -> Result<Vec<Array2<f32>>, Error> {
        Ok(packed::linears(self.isa, self.precision, x, layers))
    }

    fn dequantize(&self, layer: &CpuPacked) -> Result<Array2<f32>, Error> {
        Ok(layer.dequantize(self.isa))
    }

    fn packed_bytes(&self, layer: &CpuPacked) -> u64 {
        layer.bytes()
    }
}
