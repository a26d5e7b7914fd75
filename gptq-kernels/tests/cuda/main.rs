//! The CUDA backend against its plain twin: on the GPU of this machine, or, where there is none, on
//! an emulator that runs the same kernels behind the same driver calls, and finds reads and writes
//! out of bounds, races, and words that nobody wrote.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;
mod draw;
mod forward;
mod gpu;
mod linears;
mod steps;

/// What the emulator says it is, where there is no GPU.
const CAPABILITY: &str = "8.0";
