//! Packed checkpoint formats: GPTQ's words and zero points, those of AWQ, Marlin and
//! compressed-tensors, and the configuration beside them.
//!
//! This crate turns the integers that [`gptq_core`] finds into the tensors that vLLM, SGLang,
//! transformers, ExLlama and GPTQModel load, and back. It rearranges bits and can be undone exactly;
//! it knows no files, no models and no devices.
//!
//! # One packed lane
//!
//! Every width follows one law: code `n` occupies bits `[n·b, n·b + b)` of a stream of 32-bit
//! words, lowest bit first. 32 codes fill `b` words. With three bits, codes 10 and 21 straddle two
//! (one character is one bit):
//!
//! ```text
//!      bit 31                                     bit 0
//! word 0  │..│ 9 │ 8 │ 7 │ 6 │ 5 │ 4 │ 3 │ 2 │ 1 │ 0 │    .. bits 1 and 0 of code 10
//! word 1  │:│20 │19 │18 │17 │16 │15 │14 │13 │12 │11 │.│   .  bit 2 of code 10
//! word 2  │31 │30 │29 │28 │27 │26 │25 │24 │23 │22 │::│    :  bit 0, :: bits 2 and 1 of code 21
//! ```
//!
//! # The tensors of a layer
//!
//! | tensor | dtype | shape | holds |
//! |---|---|---|---|
//! | `qweight` | I32 | ⌈in·b/32⌉ × out | codes, packed along the inputs |
//! | `qzeros` | I32 | groups × ⌈out·b/32⌉ | zero points, packed along the outputs |
//! | `scales` | F16 | groups × out | scales |
//! | `g_idx` | I32 | in | the group of each input |
//! | `bias` | F16 | out | only if the layer has one |
//!
//! They stand for `W[o, i] = scales[g, o] · (code[i, o] − zero[g, o])` with `g = g_idx[i]`.
//! [`ZeroPointFormat`] says whether `qzeros` holds zero points or zero points minus one.
//!
//! # Other layouts
//!
//! [`Format`] puts every layout behind one interface: which tensors a layer has, what it can hold,
//! packing and unpacking. [`PackedLinear`] is the layout of `gptq` and `gptq_v2`, which kernels read
//! where it lies.
//!
//! # Example
//!
//! ```
//! use gptq_core::{Bits, GroupSize, QuantizedMatrix};
//! use gptq_pack::{LinearTensors, PackSpec, PackedLinear, PackedLinearRef, ZeroPointFormat};
//! use ndarray::Array2;
//!
//! // Two outputs, 32 inputs, one group.
//! let q = QuantizedMatrix {
//!     bits: Bits::B4,
//!     codes: Array2::from_shape_fn((2, 32), |(r, c)| ((r + c) % 16) as u8),
//!     scales: Array2::from_elem((2, 1), 0.5),
//!     zeros: Array2::from_elem((2, 1), 8),
//!     g_idx: vec![0; 32],
//! };
//! let packed = PackedLinear::pack(&q, ZeroPointFormat::Gptq)?;
//! assert_eq!(packed.qweight()[0], 0x7654_3210);
//! assert_eq!(packed.unpack(), q);
//!
//! // What a writer stores is what a reader finds.
//! let mut stored = packed.tensors().into_iter().map(|(_, tensor)| tensor);
//! let tensors = LinearTensors {
//!     qweight: stored.next().unwrap(),
//!     qzeros: stored.next().unwrap(),
//!     scales: stored.next().unwrap(),
//!     g_idx: stored.next(),
//!     bias: stored.next(),
//! };
//! let spec = PackSpec {
//!     in_features: 32,
//!     out_features: 2,
//!     bits: Some(Bits::B4),
//!     group_size: GroupSize::PerChannel,
//!     zero_format: ZeroPointFormat::Gptq,
//! };
//! assert_eq!(PackedLinearRef::from_tensors(&tensors, &spec)?, packed);
//! # Ok::<(), gptq_pack::Error>(())
//! ```
#![forbid(unsafe_code)]

pub mod gguf;
pub mod lane;
pub mod names;

mod config;
mod dynamic;
mod error;
mod format;
mod linear;
mod ops;
mod tensors;
mod view;
mod width;
mod zeros;

use config::keys;
pub use config::{CheckpointConfig, LEGACY_TENSORS, Scheme};
pub use dynamic::{DynamicRules, Override, Resolved};
pub use error::Error;
pub use format::{Format, LayerSpec, Rounding, marlin};
pub use linear::{PackedLinear, PackedLinearRef};
pub use ops::{Dequantized, PackedBackend};
pub use tensors::{Dtype, RawTensor};
pub use view::{LinearTensors, PackSpec};
pub use width::Width;
pub use zeros::ZeroPointFormat;
