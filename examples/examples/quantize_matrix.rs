//! gptq-core: one layer, GPTQ against round-to-nearest, at every width.
//!
//! `cargo run --release -p gptq-examples --example quantize_matrix`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use gptq_core::{Bits, Error, Hessian, Portable, QuantConfig, solve};
use ndarray::Array2;

fn main() -> Result<(), Error> {
    // Inputs whose channels are correlated, as in a real network: that is what GPTQ lives on.
    let (tokens, inputs, outputs) = (2048, 256, 128);
    let sources = noise(tokens, 32, 1);
    let mixing = noise(32, inputs, 2);
    let x = sources.dot(&mixing) + noise(tokens, inputs, 3) * 0.3;
    let w = noise(outputs, inputs, 4);

    println!("{:>4}  {:>12}  {:>12}  {:>6}", "bits", "loss", "rounding", "ratio");
    for bits in Bits::ALL {
        let mut hessian = Hessian::new(inputs);
        hessian.add_batch(x.view(), tokens as u64)?;
        let config = QuantConfig { bits, ..QuantConfig::default() };
        let solved = solve(w.view(), hessian, &config, &Portable)?;
        println!(
            "{:>4}  {:>12.4}  {:>12.4}  {:>6.3}",
            bits.get(),
            solved.loss,
            solved.rtn_loss,
            solved.loss / solved.rtn_loss
        );
    }
    Ok(())
}

/// Reproducible numbers in [-1, 1).
fn noise(rows: usize, columns: usize, seed: u32) -> Array2<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    Array2::from_shape_fn((rows, columns), |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    })
}
