//! A stand-in for the CUDA driver and for cuBLAS: the C interface, as far as `cudarc` uses it.
//!
//! Everything runs at once, in the calling thread. The functions take pointers as the driver does,
//! and trust them as the driver does.

#![allow(non_snake_case, reason = "the names are the driver's")]

mod blas;
mod capture;
mod code;
mod config;
mod context;
mod device;
mod event;
mod function;
mod gemm;
mod memory;
mod module;
mod state;
mod stream;
mod work;
