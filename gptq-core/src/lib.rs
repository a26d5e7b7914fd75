//! The mathematics of GPTQ, for one linear layer at a time.
//!
//! | symbol | shape           | meaning                                          |
//! |--------|-----------------|--------------------------------------------------|
//! | `W`    | out × in        | weights, row-major, one output per row           |
//! | `X`    | tokens × in     | activations entering the layer                   |
//! | `H`    | in × in         | `2/n · Xᵀ X`, see [`Hessian`]                    |
//! | `U`    | in × in, upper  | `H⁻¹ = Uᵀ U`, see [`InverseFactor`]              |
//! | `D`    | in × in         | `2/n · (Xn − X)ᵀ X` for GPTAQ, Xn without error  |
//! | `Q`    | out × in        | integer codes and grids, see [`QuantizedMatrix`] |
//!
//! GPTQ looks for the `Q` on a grid that changes the layer's outputs least,
//! `min ‖X Wᵀ − X Qᵀ‖²`. It rounds one column of `W` after the other and lets the columns that are
//! still open make up for each error. Start at [`solve`]; everything else feeds it or is returned
//! by it. [`Backend`] is the wider seam for those who run whole models: the operations of a
//! transformer's forward pass, wherever its matrices live.
//!
//! ```
//! use gptq_core::{Bits, Hessian, Portable, QuantConfig, solve};
//! use ndarray::Array2;
//!
//! let x = Array2::from_shape_fn((512, 64), |(t, c)| ((t * 31 + c * 17) % 97) as f32 / 97.0 - 0.5);
//! let w = Array2::from_shape_fn((16, 64), |(r, c)| ((r * 13 + c * 29) % 89) as f32 / 89.0 - 0.5);
//!
//! let mut hessian = Hessian::new(64);
//! hessian.add_batch(x.view(), 512)?;
//! let config = QuantConfig { bits: Bits::B3, ..QuantConfig::default() };
//! let solved = solve(w.view(), hessian, &config, &Portable)?;
//! assert!(solved.loss < solved.rtn_loss);
//! let approximation = solved.quantized.dequantize();
//! assert_eq!(approximation.dim(), w.dim());
//! # Ok::<(), gptq_core::Error>(())
//! ```
//!
//! Feature `lapack` adds [`Linalg`] through the system's OpenBLAS; nothing changes without asking
//! for it by name.

// `forbid` would also refuse the inside of ndarray's `s!` macro.
#![deny(unsafe_code)]

mod backend;
mod cholesky;
mod config;
mod damping;
mod draw;
mod eora;
mod error;
mod factor;
mod fallback;
mod feedback;
mod gptaq;
mod grid;
mod grid_search;
mod groups;
mod hessian;
mod linalg;
mod loops;
mod loss;
mod obq;
mod obs;
mod order;
mod quantized;
mod reference;
mod rtn;
mod solve;
mod sweep;
mod tile;
mod update;

pub use backend::{
    AttentionShape, Backend, Gate, Moments, Norm, NormKind, Pointwise, RopeShape, ScoreTerms,
    SolveJob, Window,
};
#[cfg(feature = "lapack")]
pub use cholesky::Lapack;
pub use config::{ActOrder, Bits, GridSearch, GroupSize, QuantConfig, ScaleDtype};
pub use damping::{DampOutcome, Damping};
pub use draw::Draw;
pub use eora::{LowRank, eora};
pub use error::{Error, Unsolved};
pub use factor::InverseFactor;
pub use fallback::{FallbackStrategy, quantize_unseen};
pub use grid::Grid;
pub use hessian::Hessian;
pub use linalg::{Linalg, Portable};
pub use loops::Loop;
pub use loss::layer_loss;
pub use obq::{Order, obq};
pub use obs::obs_prune;
pub use quantized::QuantizedMatrix;
pub use reference::Reference;
pub use rtn::round_to_nearest;
pub use solve::{Solved, solve, solve_stage, solve_with};
pub use update::quantize;

/// Refuses the first NaN or infinity.
fn check_finite(what: &'static str, a: ndarray::ArrayView2<'_, f32>) -> Result<(), Error> {
    // Whole rows first: a loop that cannot stop early is several times as fast.
    let damaged = |row: ndarray::ArrayView1<'_, f32>| {
        row.iter().fold(false, |damaged, v| damaged | !v.is_finite())
    };
    let rows = || a.rows().into_iter().enumerate();
    let Some((row, values)) = rows().find(|(_, values)| damaged(values.view())) else {
        return Ok(());
    };
    let mut values = values.iter().copied().enumerate();
    match values.find(|(_, v)| !v.is_finite()) {
        Some((column, value)) => Err(Error::NotFinite { what, value, row, column }),
        None => Ok(()),
    }
}
