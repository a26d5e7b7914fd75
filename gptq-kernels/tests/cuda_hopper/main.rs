//! The same as tests/cuda, as a GPU of compute capability 9.0 runs it: with products of warpgroups,
//! and with kernels that begin while those before them still run.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../cuda/draw.rs"]
mod draw;
#[path = "../cuda/forward.rs"]
mod forward;
#[path = "../cuda/gpu.rs"]
mod gpu;
#[path = "../cuda/linears.rs"]
mod linears;
#[path = "../cuda/steps.rs"]
mod steps;

/// What the emulator says it is, where there is no GPU.
const CAPABILITY: &str = "9.0";
