//! Fast implementations of the seams that `gptq-core` and `gptq-pack` define.
//!
//! | operation                        | file                   | plain twin                       |
//! |----------------------------------|------------------------|----------------------------------|
//! | product of dense matrices        | `cpu/gemm/`            | `gptq_core::Portable`            |
//! | the same with factors of bf16    | `cpu/bf16/`            | `gptq_core::Reference`, rounded  |
//! | `linear`                         | `cpu/linear.rs`        | `gptq_core::Reference`           |
//! | `accumulate_gram`                | `cpu/gram.rs`          | `gptq_core::Reference`           |
//! | `attention`                      | `cpu/attention.rs`     | `gptq_core::Reference`           |
//! | norms                            | `cpu/norm.rs`          | `gptq_core::Reference`           |
//! | RoPE                             | `cpu/rope.rs`          | `gptq_core::Reference`           |
//! | activations, alone and as gates  | `cpu/pointwise.rs`     | `gptq_core::Reference`           |
//! | sums, rows and columns by index  | `cpu/rows.rs`          | `gptq_core::Reference`           |
//! | attention of one token           | `cpu/one_query.rs`     | `gptq_core::Reference`           |
//! | prepared linears                 | `cpu/packed/`          | `gptq_core::Reference`           |
//!
//! [`measure`] says what the machine can do at most.
//!
//! Instruction sets are chosen at run time, once, when a [`CpuBackend`] is made; one binary serves
//! every x86-64, and other CPUs take the scalar path. Work is split into tiles of fixed size on the
//! caller's rayon pool, so results are the same at any number of threads.
//!
//! ```
//! use gptq_core::{Backend, Reference};
//! use gptq_kernels::CpuBackend;
//! use ndarray::Array2;
//!
//! let backend = CpuBackend::new();
//! let x = Array2::from_shape_fn((5, 40), |(t, c)| (t as f32 - c as f32) / 20.0);
//! let w = Array2::from_shape_fn((30, 40), |(r, c)| (r as f32 * 0.1 - c as f32 * 0.05).sin());
//! let fast = backend.linear(&x, &w, None)?;
//! let plain = Reference.linear(&x, &w, None)?;
//! assert!((fast - plain).iter().all(|d| d.abs() < 1e-4));
//! # Ok::<(), gptq_core::Error>(())
//! ```

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod heap;
pub mod measure;

pub use cpu::{CpuBackend, CpuPacked, Isa, Precision};
pub use heap::{keep_memory, return_memory, share_heap};
