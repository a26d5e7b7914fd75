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
//! | `panel.rs`    | the same with vectors of bytes, for many tokens        |
//! | `dense.rs`    | weights that are not packed                            |
//! | `eight.rs`    | dense weights as 8 bits                                |
//! | `run.rs`      | several linears of one input, on all threads           |

/// What follows, compiled for every width, of which `bits` chooses one at run time.
macro_rules! by_bits {
    ($bits:expr, $BITS:ident => $work:expr) => {
        match $bits {
            gptq_core::Bits::B2 => {
                const $BITS: usize = 2;
                $work
            }
            gptq_core::Bits::B3 => {
                const $BITS: usize = 3;
                $work
            }
            gptq_core::Bits::B4 => {
                const $BITS: usize = 4;
                $work
            }
            gptq_core::Bits::B8 => {
                const $BITS: usize = 8;
                $work
            }
        }
    };
}

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
#[cfg(target_arch = "x86_64")]
mod panel;
mod quads;
mod run;
mod slots;
mod tiles;
#[cfg(target_arch = "x86_64")]
mod vnni;

use gptq_pack::PackedLinearRef;
use ndarray::{Array2, ArrayView2};

use super::{
    bf16::{self, Side},
    isa::Isa,
    linear,
    precision::Precision,
};
use dense::Dense;
pub(crate) use lines::{Line, Lines};
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
    /// For products with many tokens: as they came.
    Whole(Array2<f32>),
    /// For products with many tokens: in bf16, as tiles.
    Rounded(bf16::Packed),
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

    /// Weights that products with many tokens read, in the numbers that they are made of.
    pub(crate) fn for_many_tokens(
        isa: Isa,
        in_bf16: bool,
        weight: Array2<f32>,
        bias: Option<&[f32]>,
    ) -> Self {
        let (out_features, in_features) = weight.dim();
        let weights = if in_bf16 {
            Weights::Rounded(bf16::Packed::new(isa, weight.view(), Side::Right))
        } else {
            Weights::Whole(weight)
        };
        Self { in_features, out_features, weights, bias: bias.map(<[f32]>::to_vec) }
    }

    pub(crate) fn dequantize(&self, isa: Isa) -> Array2<f32> {
        match &self.weights {
            Weights::Packed(tiles) => expand::dequantize(isa, tiles, self.out_features),
            Weights::Dense(dense) => dense.widened(self.out_features, self.in_features),
            Weights::Whole(weight) => weight.clone(),
            Weights::Rounded(tiles) => tiles.unpacked(),
        }
    }

    /// Bytes of weights, scales and zero points that a product reads.
    pub fn bytes(&self) -> u64 {
        (match &self.weights {
            Weights::Packed(tiles) => tiles.bytes(),
            Weights::Dense(dense) => dense.bytes(),
            Weights::Whole(weight) => size_of::<f32>() * weight.len(),
            Weights::Rounded(tiles) => tiles.bytes(),
        }) as u64
    }
}

/// `x · Wᵀ + bias` of every layer.
pub(crate) fn linears(
    isa: Isa,
    precision: Precision,
    x: &Array2<f32>,
    layers: &[&CpuPacked],
) -> Vec<Array2<f32>> {
    for layer in layers {
        assert_eq!(x.ncols(), layer.in_features, "a linear's inputs have another width");
    }
    let rounded = |layer: &&CpuPacked| matches!(layer.weights, Weights::Rounded(_));
    let whole = |layer: &&CpuPacked| matches!(layer.weights, Weights::Whole(_));
    let many = precision == Precision::Bf16 && x.nrows() >= linear::FEW;
    if many || layers.iter().any(rounded) {
        let left = bf16::Packed::new(isa, x.view(), Side::Left);
        let product = |layer: &&CpuPacked| {
            let bias = layer.bias.as_deref();
            if let Weights::Rounded(right) = &layer.weights {
                return linear::of_tiles(&left, right, bias);
            }
            // Expanding a layer costs as much as some tokens; tiles pay it back.
            let weight = layer.dequantize(isa);
            let right = bf16::Packed::new(isa, weight.view(), Side::Right);
            linear::of_tiles(&left, &right, bias)
        };
        return layers.iter().map(product).collect();
    }
    if layers.iter().any(whole) {
        let product = |layer: &&CpuPacked| match &layer.weights {
            Weights::Whole(weight) => {
                linear::linear(isa, false, x, weight.view(), layer.bias.as_deref())
            }
            _ => run::linears(isa, precision, x, &[layer]).remove(0),
        };
        return layers.iter().map(product).collect();
    }
    run::linears(isa, precision, x, layers)
}
