//! [`PackedBackend`]: products with packed layers, and their definition by unpacking.

use gptq_core::{Backend, Error, Reference};
use ndarray::{Array2, ArrayView2};

use crate::PackedLinearRef;

/// A [`Backend`] that multiplies by packed layers.
///
/// A layer is prepared once, when a model is loaded, in whatever layout this machine's kernels
/// want; the file's layout is not made for products.
pub trait PackedBackend: Backend {
    /// A layer laid out for this machine.
    type Packed: Send + Sync;

    /// Lays a layer out. Its bias, if any, goes along.
    fn prepare(&self, layer: &PackedLinearRef<'_>) -> Result<Self::Packed, Error>;

    /// `x · Wᵀ + bias`, with `W` the dequantized layer: tokens × in becomes tokens × out.
    fn packed_linear(&self, x: &Self::Tensor, layer: &Self::Packed) -> Result<Self::Tensor, Error>;

    /// The weights, out × in, columns in the original order.
    fn dequantize(&self, layer: &Self::Packed) -> Result<Self::Tensor, Error>;
}

/// A dequantized layer: how [`Reference`] prepares one.
#[derive(Clone, Debug)]
pub struct Dequantized {
    weight: Array2<f32>,
    bias: Option<Array2<f32>>,
}

impl PackedBackend for Reference {
    type Packed = Dequantized;

    fn prepare(&self, layer: &PackedLinearRef<'_>) -> Result<Dequantized, Error> {
        let bias = layer.bias().map(|bias| ArrayView2::from_shape((1, bias.len()), bias));
        let bias = bias.transpose().map_err(|e| Error::Backend { message: e.to_string() })?;
        Ok(Dequantized {
            weight: layer.unpack().dequantize(),
            bias: bias.map(|bias| bias.to_owned()),
        })
    }

    fn packed_linear(&self, x: &Array2<f32>, layer: &Dequantized) -> Result<Array2<f32>, Error> {
        self.linear(x, &layer.weight, layer.bias.as_ref())
    }

    fn dequantize(&self, layer: &Dequantized) -> Result<Array2<f32>, Error> {
        Ok(layer.weight.clone())
    }
}
