//! gptq-kernels: a packed layer times a token, on every instruction set this CPU has.
//!
//! `cargo run --release -p gptq-examples --example packed_matvec`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::time::Instant;

use gptq_core::{QuantConfig, round_to_nearest};
use gptq_kernels::{CpuBackend, Isa};
use gptq_pack::{PackedBackend, PackedLinear, ZeroPointFormat};
use ndarray::Array2;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let n = 4096;
    let w = Array2::from_shape_fn((n, n), |(r, c)| ((r * 37 + c * 11) % 101) as f32 / 50.0 - 1.0);
    let quantized = round_to_nearest(w.view(), &QuantConfig::default())?;
    let packed = PackedLinear::pack(&quantized, ZeroPointFormat::Gptq)?;
    let x = Array2::from_shape_fn((1, n), |(_, c)| (c % 17) as f32 / 17.0 - 0.5);

    println!("{n} × {n} at 4 bits, one token");
    for isa in Isa::available() {
        let backend = CpuBackend::with_isa(isa);
        let layer = backend.prepare(&packed)?;
        let repetitions = 20;
        let started = Instant::now();
        for _ in 0..repetitions {
            backend.packed_linear(&x, &layer)?;
        }
        let seconds = started.elapsed().as_secs_f64() / f64::from(repetitions);
        let rate = packed.nbytes() as f64 / seconds / 1e9;
        println!("{:<7} {:>8.3} ms  {rate:>6.1} GB/s of packed weights", isa.name(), seconds * 1e3);
    }
    Ok(())
}
