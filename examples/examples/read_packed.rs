//! gptq-pack: a layer to packed words and back, without any model around it.
//!
//! `cargo run -p gptq-examples --example read_packed`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use gptq_core::{Bits, QuantConfig, round_to_nearest};
use gptq_pack::{PackedLinear, ZeroPointFormat};
use ndarray::Array2;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let w =
        Array2::from_shape_fn((64, 128), |(r, c)| ((r * 37 + c * 11) % 101) as f32 / 50.0 - 1.0);
    let config = QuantConfig { bits: Bits::B3, ..QuantConfig::default() };
    let quantized = round_to_nearest(w.view(), &config)?;

    let packed = PackedLinear::pack(&quantized, ZeroPointFormat::Gptq)?;
    for (part, tensor) in packed.tensors() {
        println!("{part:<8} {:?} {:?}, {} bytes", tensor.dtype, tensor.shape, tensor.bytes.len());
    }
    println!("first words of qweight: {:08X?}", &packed.qweight()[..4]);

    let unpacked = packed.unpack();
    assert_eq!(unpacked.codes, quantized.codes, "packing loses nothing");
    let worst = (unpacked.dequantize() - &w).fold(0f32, |m, d| m.max(d.abs()));
    println!("largest rounding error: {worst:.4}");
    Ok(())
}
