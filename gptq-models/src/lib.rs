//! Models as layer graphs, checkpoints as mapped tensors, and the pipeline that turns one into a
//! GPTQ checkpoint.
//!
//! - [`Checkpoint`] opens a Hugging Face folder; [`CheckpointWriter`] and [`Staging`] write one.
//! - [`Graph`](graph::Graph) is a model as data; [`Architecture`] is the graph and the numbers of one
//!   checkpoint, made by its [`Family`].
//! - [`quantize`] runs GPTQ or round-to-nearest over a checkpoint, [`Model`] runs any checkpoint,
//!   dense or packed; [`evaluate`] and [`generate`] say what it is worth.
//! - [`write_gguf`] turns a checkpoint into the file that llama.cpp reads.
//!
//! Nothing here knows where it computes: everything is generic over
//! [`PackedBackend`](gptq_pack::PackedBackend). The plain [`Reference`](gptq_core::Reference) will
//! do; `gptq-kernels` has the fast ones.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use gptq_core::Reference;
//! use gptq_models::{Checkpoint, Model, QuantizeOptions, quantize};
//!
//! let source = Checkpoint::open(Path::new("my-llama"))?;
//! let samples = vec![vec![1, 2, 3, 4]; 8]; // token ids, from gptq-calib
//! let out = Path::new("my-llama-gptq");
//! let report =
//!     quantize(&source, &samples, &Reference, &QuantizeOptions::default(), out, &mut ())?;
//! assert_eq!(report.coverage.quantized, report.coverage.expected);
//!
//! let model = Model::load(&Checkpoint::open(out)?, Reference)?;
//! let logits = model.logits(&[1, 2, 3])?;
//! # Ok::<(), gptq_models::Error>(())
//! ```

// One line in `checkpoint/read.rs` maps files; it says why.
#![deny(unsafe_code)]

pub mod graph;

mod adapter;
mod arch;
mod awake;
mod block;
mod capsule;
mod check;
mod checkpoint;
mod config;
mod convert;
mod diff;
mod error;
mod evaluate;
mod fallback;
mod forecast;
mod generate;
mod gguf;
mod inspect;
mod kept;
mod memory;
mod meter;
mod model;
mod notices;
mod options;
mod output;
mod parking;
mod plan;
mod progress;
mod proof;
mod quantize;
mod quantized;
mod recipe;
mod report;
mod resume;
mod rope;
mod rope_scaling;
mod run;
mod source;
mod stage;
mod unit;
mod verify;
mod weights;
mod zero_points;

pub use adapter::Adapter;
pub use adapter::EoraOptions;
pub use arch::{Architecture, FAMILIES, Family};
pub use block::Routing;
pub use capsule::Capsule;
pub use check::{Engine, Objection, Setting, Severity, check, check_run};
pub use checkpoint::{Checkpoint, CheckpointWriter, Staging, TensorSpec, TensorView, Written};
pub use config::ModelConfig;
pub use convert::{ConvertOptions, ConvertReport, ConvertedLayer, Target, convert};
pub use diff::{Diff, KeyChange, LayerDiff, TensorDiff, diff};
pub use error::Error;
pub use evaluate::{Evaluation, Window, evaluate};
pub use fallback::{FallbackPolicy, FallbackThreshold};
pub use forecast::{Forecast, MemoryForecast, Speed, Work, forecast, measure_speed};
pub use generate::{Generated, Sampling, generate};
pub use gguf::{GgufOptions, GgufReport, GgufTensor, GgufType, write_gguf};
pub use graph::LinearPlace;
pub use inspect::{DenseShare, Inspection, PackedScheme, Share, inspect};
pub use kept::Kept;
pub use memory::MemoryReport;
pub use model::{KvCache, Model};
pub use options::{Method, QuantizeOptions};
pub use progress::Progress;
pub use quantize::{quantize, requantize};
pub use quantized::quantization_config;
pub use recipe::{FallbackRecipe, Mse, Recipe};
pub use report::{AdapterReport, Coverage, Entry, Fallback, Fate, LayerReport, Ledger, Report};
pub use rope::{Rope, RopeTable};
pub use source::{Axes, FusedExpert, Outputs, Stored};
pub use verify::{Finding, Verification, source_hashes, verify};
pub use zero_points::{Offset, ZeroPoints};
