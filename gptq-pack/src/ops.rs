//! [`PackedBackend`]: products with prepared linears, and their definition by unpacking.

use gptq_core::{Backend, Error, Reference};
use ndarray::{Array2, ArrayView2};

use crate::{PackedLinearRef, marlin::MarlinRef};

/// A [`Backend`] with linears in a layout of its own.
///
/// A linear is prepared once, when a model is loaded, in whatever layout this machine's kernels
/// want; neither a packed file's layout nor a plain matrix is made for products.
pub trait PackedBackend: Backend {
    /// A linear laid out for this machine, with its bias.
    type Packed: Send + Sync;

    /// Lays a packed layer out. Its bias, if any, goes along.
    ///
    /// # Errors
    /// The backend's.
    fn prepare(&self, layer: &PackedLinearRef<'_>) -> Result<Self::Packed, Error>;

    /// Takes a packed layer in Marlin's words, if this machine's kernels read them as they are.
    /// `None` if they do not: the caller [prepares](Self::prepare) the same layer then.
    ///
    /// # Errors
    /// The backend's.
    fn prepare_marlin(&self, _layer: &MarlinRef<'_>) -> Result<Option<Self::Packed>, Error> {
        Ok(None)
    }

    /// Lays a dense linear out: `weight` is out × in, `bias` has `out` entries.
    ///
    /// # Errors
    /// The backend's.
    fn prepare_dense(
        &self,
        weight: ArrayView2<'_, f32>,
        bias: Option<&[f32]>,
    ) -> Result<Self::Packed, Error>;

    /// Lays a dense linear out for products with many tokens at once, in the numbers that such
    /// products are made of: what calibration goes on with, and forgets soon.
    ///
    /// # Errors
    /// The backend's.
    fn prepare_for_many_tokens(
        &self,
        weight: Array2<f32>,
        bias: Option<&[f32]>,
    ) -> Result<Self::Packed, Error> {
        self.prepare_dense(weight.view(), bias)
    }

    /// `x · Wᵀ + bias` of every layer, with `W` its weights: tokens × in becomes tokens × out. One
    /// operation for all linears that read the same input, so that a backend brings it in the order
    /// and the numbers its kernels want once, and splits the work of all of them among threads.
    ///
    /// # Errors
    /// The backend's.
    fn linears(
        &self,
        x: &Self::Tensor,
        layers: &[&Self::Packed],
    ) -> Result<Vec<Self::Tensor>, Error>;

    /// [`linears`](Self::linears) of one.
    ///
    /// # Errors
    /// The backend's.
    fn packed_linear(&self, x: &Self::Tensor, layer: &Self::Packed) -> Result<Self::Tensor, Error> {
        let mut outputs = self.linears(x, &[layer])?;
        outputs.pop().ok_or_else(|| Error::Backend { message: "a linear without output".into() })
    }

    /// The weights, out × in, columns in the original order.
    ///
    /// # Errors
    /// The backend's.
    fn dequantize(&self, layer: &Self::Packed) -> Result<Self::Tensor, Error>;

    /// Bytes of weights, scales and zero points that a product with the layer reads.
    fn packed_bytes(&self, layer: &Self::Packed) -> u64;
}

/// A dense matrix and its bias: how [`Reference`] prepares a linear.
#[derive(Clone, Debug)]
pub struct Dequantized {
    weight: Array2<f32>,
    bias: Option<Array2<f32>>,
}

impl PackedBackend for Reference {
    type Packed = Dequantized;

    fn prepare(&self, layer: &PackedLinearRef<'_>) -> Result<Dequantized, Error> {
        self.prepare_dense(layer.unpack().dequantize().view(), layer.bias())
    }

    fn prepare_dense(
        &self,
        weight: ArrayView2<'_, f32>,
        bias: Option<&[f32]>,
    ) -> Result<Dequantized, Error> {
        let bias = bias.map(|bias| ArrayView2::from_shape((1, bias.len()), bias));
        let bias = bias.transpose().map_err(|e| Error::Backend { message: e.to_string() })?;
        Ok(Dequantized { weight: weight.to_owned(), bias: bias.map(|bias| bias.to_owned()) })
    }

    fn linears(&self, x: &Array2<f32>, layers: &[&Dequantized]) -> Result<Vec<Array2<f32>>, Error> {
        layers.iter().map(|layer| self.linear(x, &layer.weight, layer.bias.as_ref())).collect()
    }

    fn dequantize(&self, layer: &Dequantized) -> Result<Array2<f32>, Error> {
        Ok(layer.weight.clone())
    }

    fn packed_bytes(&self, layer: &Dequantized) -> u64 {
        size_of_val(layer.weight.as_slice_memory_order().unwrap_or_default()) as u64
    }
}
