//! What products with packed weights take and give, beside the same layers as plain halves.

use std::time::{Duration, Instant};

use gptq_core::{Backend, Bits, Error, Norm, NormKind, QuantizedMatrix};
use gptq_pack::{PackedBackend, PackedLinear, ZeroPointFormat};
use ndarray::{Array2, s};

use super::{CudaBackend, CudaPacked, CudaTensor, device::failure};

/// More than any cache holds.
const WORKING_SET: u64 = 240_000_000;
/// Copies of a small layer at most.
const COPIES: u64 = 32;
/// Passes through all copies: the first runs, the second is recorded, the others replay.
const ROUNDS: usize = 12;
/// For which no pass is begun that is not needed.
const ENOUGH: Duration = Duration::from_secs(2);
/// Outputs that are looked at.
const SEEN: usize = 64;

/// Layers of one shape: 4 bits, symmetric, groups of 128 inputs or one of all.
pub struct Products {
    gpu: CudaBackend,
    matrix: QuantizedMatrix,
    packed: Vec<CudaPacked>,
    plain: Vec<CudaPacked>,
}

/// What one product took, and how right it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProductFigures {
    /// Seconds with packed weights.
    pub packed: f64,
    /// Seconds with weights in halves: cuBLAS from 9 tokens on, where it is installed.
    pub plain: f64,
    /// Bytes per second of packed weights.
    pub read: f64,
    /// Multiplications and additions per second with packed weights.
    pub flops: f64,
    /// The largest difference from the same product of f64 with f32 weights, as a share of the
    /// largest result: some 2⁻¹⁰ with f16, and 2⁻⁷ with bf16.
    pub error: f64,
}

impl Products {
    /// Lays out so many layers of outputs × inputs that no cache holds them.
    ///
    /// ```no_run
    /// use gptq_kernels::cuda::{CudaBackend, Products};
    ///
    /// let products = Products::new(&CudaBackend::open(0)?, 14336, 4096)?;
    /// for tokens in [1, 16, 64] {
    ///     let figures = products.measure(tokens)?;
    ///     println!("{tokens}: {:.2} times as fast", figures.plain / figures.packed);
    /// }
    /// # Ok::<(), gptq_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// The GPU's; [`Error::Backend`] for a shape without numbers.
    pub fn new(gpu: &CudaBackend, outputs: usize, inputs: usize) -> Result<Self, Error> {
        if outputs == 0 || inputs == 0 {
            return Err(failure(format!("CUDA: a layer of {outputs} × {inputs} has no weights")));
        }
        let group = if inputs.is_multiple_of(128) { 128 } else { inputs };
        let groups = inputs / group;
        let matrix = QuantizedMatrix {
            bits: Bits::B4,
            codes: numbers(outputs, inputs, 1).mapv(|v| ((v + 1.0) * 7.99) as u8),
            // As halves hold them.
            scales: numbers(outputs, groups, 2)
                .mapv(|v| 2f32.powi(-7) * (1.0 + (v * 8.0).round() / 16.0)),
            zeros: Array2::from_elem((outputs, groups), 8),
            g_idx: (0..inputs).map(|c| (c / group) as u32).collect(),
        };
        let stored = PackedLinear::pack(&matrix, ZeroPointFormat::GptqV2)
            .map_err(|e| failure(format!("CUDA: a layer of {outputs} × {inputs}: {e}")))?;
        let packed = enough(gpu, || gpu.prepare(&stored))?;
        let weights = matrix.dequantize();
        let plain = enough(gpu, || gpu.prepare_dense(weights.view(), None))?;
        Ok(Self { gpu: gpu.clone(), matrix, packed, plain })
    }

    /// Products of so many tokens, one after the other as one graph, each with another layer; the
    /// best of several passes.
    ///
    /// # Errors
    /// The GPU's.
    pub fn measure(&self, tokens: usize) -> Result<ProductFigures, Error> {
        let (outputs, inputs) = self.matrix.codes.dim();
        let x = self.gpu.take(numbers(tokens, inputs, 3))?;
        // Norms write halves beside their results, as they do in a model.
        let kind = NormKind::Rms;
        let norm = Norm { kind, eps: 0.0, segment: inputs, weight: None, bias: None };
        let x = self.gpu.norm(&x, &norm)?;
        let (packed, plain) = (self.time(&x, &self.packed)?, self.time(&x, &self.plain)?);
        let y = self.gpu.packed_linear(&x, &self.packed[0])?;
        let error = self.error(&self.gpu.download(&x)?, &self.gpu.download(&y)?);
        Ok(ProductFigures {
            packed,
            plain,
            read: self.gpu.packed_bytes(&self.packed[0]) as f64 / packed,
            flops: 2.0 * (outputs * inputs * tokens) as f64 / packed,
            error,
        })
    }

    /// Seconds of one product.
    fn time(&self, x: &CudaTensor, layers: &[CudaPacked]) -> Result<f64, Error> {
        let (mut best, begun) = (f64::MAX, Instant::now());
        for round in 0..ROUNDS {
            if round > 2 && begun.elapsed() > ENOUGH {
                break;
            }
            self.gpu.finish()?;
            let started = Instant::now();
            for layer in layers {
                self.gpu.packed_linear(x, layer)?;
            }
            self.gpu.finish()?;
            best = best.min(started.elapsed().as_secs_f64());
        }
        Ok(best / layers.len() as f64)
    }

    /// Of outputs all over the matrix, the last one among them.
    fn error(&self, x: &Array2<f32>, y: &Array2<f32>) -> f64 {
        let outputs = y.ncols();
        let step = outputs.div_ceil(SEEN);
        let (mut worst, mut largest) = (0f64, 0f64);
        for output in (0..outputs).rev().step_by(step) {
            let weight = |c: usize| {
                let g = self.matrix.g_idx[c] as usize;
                let code = f64::from(self.matrix.codes[(output, c)]);
                (code - f64::from(self.matrix.zeros[(output, g)]))
                    * f64::from(self.matrix.scales[(output, g)])
            };
            let weights: Vec<f64> = (0..x.ncols()).map(weight).collect();
            for (x, &got) in x.outer_iter().zip(y.slice(s![.., output])) {
                let want: f64 = x.iter().zip(&weights).map(|(&x, w)| f64::from(x) * w).sum();
                largest = largest.max(want.abs());
                let off = (f64::from(got) - want).abs();
                // `max` passes over a NaN.
                worst = if off.is_nan() { f64::INFINITY } else { worst.max(off) };
            }
        }
        worst / largest.max(f64::MIN_POSITIVE)
    }
}

/// Reproducible numbers in [-1, 1).
fn numbers(rows: usize, columns: usize, seed: u32) -> Array2<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    Array2::from_shape_simple_fn((rows, columns), || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    })
}

fn enough(
    gpu: &CudaBackend,
    mut make: impl FnMut() -> Result<CudaPacked, Error>,
) -> Result<Vec<CudaPacked>, Error> {
    let first = make()?;
    let bytes = gpu.packed_bytes(&first).max(1);
    let room = WORKING_SET.min(gpu.memory()?.0 as u64 / 4);
    let many = room.div_ceil(bytes).clamp(1, COPIES);
    std::iter::once(Ok(first)).chain((1..many).map(|_| make())).collect()
}
