//! Prepared linears: laid out once for this machine's kernels, multiplied many times.
//!
//! | file          | holds                                                  |
//! |---------------|--------------------------------------------------------|
//! | `quads.rs`    | where the bits of a code are                           |
//! | `slots.rs`    | the order of inputs                                    |
//! | `tiles.rs`    | the order of everything in memory                      |
//! | `exact.rs`    | products with one token as f32                         |
//! | `expand.rs`   | products with many tokens as f32                       |
//! | `int8.rs`     | products with activations as bytes                     |
//! | `amx.rs`      | the same with tiles, for many tokens                   |
//! | `dense.rs`    | weights that are not packed                            |
//! | `eight.rs`    | dense weights as 8 bits                                |
//! | `run.rs`      | several linears of one input, on all threads           |

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod bytes;
mod dense;
mod eight;
mod exact;
mod expand;
mod half;
mod int8;
mod lines;
mod quads;
mod run;
mod slots;
mod tiles;
#[cfg(target_arch = "x86_64")]
mod vnni;

use gptq_pack::PackedLinearRef;
use ndarray::{Array2, ArrayView2};

pub(crate) use run::linears;

use super::{isa::Isa, precision::Precision};
use dense::Dense;
use tiles::Tiles;

/// A linear laid out for the CPU's kernels, packed or dense, with its bias.
#[derive(Clone, Debug)]
pub struct CpuPacked {
    in_features: usize,
    out_features: usize,
    weights: Weights,
    bias: Option<Vec<f32>>,
}

#[derive(Clone, Debug)]
enum Weights {
    Packed(Tiles),
    Dense(Dense),
}

impl CpuPacked {
    pub(crate) fn packed(layer: &PackedLinearRef<'_>) -> Self {
        let matrix = layer.unpack();
        Self {
            in_features: matrix.in_features(),
            out_features: matrix.out_features(),
            weights: Weights::Packed(Tiles::new(&matrix)),
            bias: layer.bias().map(<[f32]>::to_vec),
        }
    }

    /// With [`Precision::Int8`], weights of 8 bits; else what loses nothing.
    pub(crate) fn dense(
        precision: Precision,
        weight: ArrayView2<'_, f32>,
        bias: Option<&[f32]>,
    ) -> Self {
        let matrix = (precision == Precision::Int8).then(|| eight::quantize(weight)).flatten();
        let weights = match matrix {
            Some(matrix) => Weights::Packed(Tiles::new(&matrix)),
            None => Weights::Dense(Dense::new(weight)),
        };
        let (out_features, in_features) = weight.dim();
        Self { in_features, out_features, weights, bias: bias.map(<[f32]>::to_vec) }
    }

    pub(crate) fn dequantize(&self, isa: Isa) -> Array2<f32> {
        match &self.weights {
            Weights::Packed(tiles) => expand::dequantize(isa, tiles, self.out_features),
            Weights::Dense(dense) => dense.widened(self.out_features, self.in_features),
        }
    }

    /// The bias, 1 × out.
    pub(crate) fn bias_row(&self) -> Option<Array2<f32>> {
        let bias = self.bias.as_ref()?;
        Some(ArrayView2::from_shape((1, bias.len()), bias).expect("one row").to_owned())
    }

    /// Bytes of weights, scales and zero points that a product reads.
    pub fn bytes(&self) -> u64 {
        (match &self.weights {
            Weights::Packed(tiles) => tiles.bytes(),
            Weights::Dense(dense) => dense.bytes(),
        }) as u64
    }
}
