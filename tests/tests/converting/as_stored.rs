//! Layers that a backend takes as their file stores them.

use gptq_core::{
    AttentionShape, Backend, Bits, Error, Gate, Norm, Pointwise, RopeShape, ScoreTerms,
};
use gptq_models::Model;
use gptq_pack::{Format, PackedBackend, PackedLinearRef, ZeroPointFormat, marlin::MarlinRef};
use gptq_tests::random_tokens;
use ndarray::{Array2, ArrayView2};

use crate::{gpu::gpu, open, rounded, to, wide_llama};

/// A backend that takes packed layers as Marlin stores them, and in no other way.
struct OnlyMarlin<B>(B);

impl<B: PackedBackend> Backend for OnlyMarlin<B> {
    type Tensor = B::Tensor;

    fn upload(&self, a: ArrayView2<'_, f32>) -> Result<B::Tensor, Error> {
        self.0.upload(a)
    }

    fn download(&self, a: &B::Tensor) -> Result<Array2<f32>, Error> {
        self.0.download(a)
    }

    fn dim(&self, a: &B::Tensor) -> (usize, usize) {
        self.0.dim(a)
    }

    fn zeros(&self, rows: usize, columns: usize) -> Result<B::Tensor, Error> {
        self.0.zeros(rows, columns)
    }

    fn linear(
        &self,
        x: &B::Tensor,
        w: &B::Tensor,
        bias: Option<&B::Tensor>,
    ) -> Result<B::Tensor, Error> {
        self.0.linear(x, w, bias)
    }

    fn norm(&self, x: &B::Tensor, norm: &Norm<'_, B::Tensor>) -> Result<B::Tensor, Error> {
        self.0.norm(x, norm)
    }

    fn rope(
        &self,
        x: &mut B::Tensor,
        cos: &B::Tensor,
        sin: &B::Tensor,
        shape: RopeShape,
    ) -> Result<(), Error> {
        self.0.rope(x, cos, sin, shape)
    }

    fn attention(
        &self,
        q: &B::Tensor,
        k: &B::Tensor,
        v: &B::Tensor,
        shape: &AttentionShape,
        terms: ScoreTerms<'_, B::Tensor>,
    ) -> Result<B::Tensor, Error> {
        self.0.attention(q, k, v, shape, terms)
    }

    fn apply(&self, x: &mut B::Tensor, f: Pointwise) -> Result<(), Error> {
        self.0.apply(x, f)
    }

    fn gated(&self, gate: &B::Tensor, up: &B::Tensor, f: Gate) -> Result<B::Tensor, Error> {
        self.0.gated(gate, up, f)
    }

    fn add_assign(&self, x: &mut B::Tensor, y: &B::Tensor) -> Result<(), Error> {
        self.0.add_assign(x, y)
    }

    fn scale_rows(&self, x: &mut B::Tensor, factors: &[f32]) -> Result<(), Error> {
        self.0.scale_rows(x, factors)
    }

    fn columns(&self, parts: &[&B::Tensor], index: &[u32]) -> Result<B::Tensor, Error> {
        self.0.columns(parts, index)
    }

    fn scatter_add(
        &self,
        x: &mut B::Tensor,
        rows: &[u32],
        weights: &[f32],
        y: &B::Tensor,
    ) -> Result<(), Error> {
        self.0.scatter_add(x, rows, weights, y)
    }

    fn gather(&self, table: &B::Tensor, rows: &[u32]) -> Result<B::Tensor, Error> {
        self.0.gather(table, rows)
    }

    fn cache(&self, rows: usize, columns: usize) -> Result<B::Tensor, Error> {
        self.0.cache(rows, columns)
    }
    fn write_rows(&self, target: &mut B::Tensor, at: usize, rows: &B::Tensor) -> Result<(), Error> {
        self.0.write_rows(target, at, rows)
    }

    fn accumulate_gram(&self, h: &mut B::Tensor, x: &B::Tensor) -> Result<(), Error> {
        self.0.accumulate_gram(h, x)
    }

    fn accumulate_cross(
        &self,
        d: &mut B::Tensor,
        native: &B::Tensor,
        x: &B::Tensor,
    ) -> Result<(), Error> {
        self.0.accumulate_cross(d, native, x)
    }
}

impl<B: PackedBackend> PackedBackend for OnlyMarlin<B> {
    type Packed = B::Packed;

    fn prepare(&self, _: &PackedLinearRef<'_>) -> Result<B::Packed, Error> {
        Err(Error::Backend { message: "a layer that was repacked".into() })
    }

    fn prepare_marlin(&self, layer: &MarlinRef<'_>) -> Result<Option<B::Packed>, Error> {
        self.0.prepare_marlin(layer)
    }

    fn prepare_dense(
        &self,
        weight: ArrayView2<'_, f32>,
        bias: Option<&[f32]>,
    ) -> Result<B::Packed, Error> {
        self.0.prepare_dense(weight, bias)
    }

    fn linears(&self, x: &B::Tensor, layers: &[&B::Packed]) -> Result<Vec<B::Tensor>, Error> {
        self.0.linears(x, layers)
    }

    fn dequantize(&self, layer: &B::Packed) -> Result<B::Tensor, Error> {
        self.0.dequantize(layer)
    }

    fn packed_bytes(&self, layer: &B::Packed) -> u64 {
        self.0.packed_bytes(layer)
    }
}

#[test]
fn a_gpu_takes_the_words_of_marlin() {
    let source = wide_llama();
    for group in [128, -1] {
        let gptq = rounded(source.path(), Bits::B4, group, true, ZeroPointFormat::GptqV2);
        let marlin = to(&gptq.dir, Format::Marlin);
        let usual = Model::load(&open(&gptq.dir), gpu()).unwrap();
        let as_stored = Model::load(&open(&marlin.dir), OnlyMarlin(gpu())).unwrap();
        for tokens in [1, 2, 11] {
            let ids = &random_tokens(7, 1, tokens)[0];
            assert_eq!(as_stored.logits(ids).unwrap(), usual.logits(ids).unwrap());
        }
        // f32 throughout has no kernels for them, and neither has a CPU.
        let exact = Model::load(&open(&marlin.dir), OnlyMarlin(gpu().exact()));
        assert!(exact.is_err_and(|error| error.to_string().contains("repacked")));
    }
}
