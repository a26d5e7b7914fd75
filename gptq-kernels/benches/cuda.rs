//! Products on a GPU: `cargo bench -p gptq-kernels --features cuda --bench cuda`.
//!
//! For every shape and number of tokens: 4-bit layers of groups of 128, and the same layers as plain
//! halves, through cuBLAS from 9 tokens on. Calls go round through more layers than the GPU's cache
//! holds, all of them as one CUDA graph, and the best of several rounds counts. Beside the times, the
//! share of the bandwidth that kernels read with at most, and how much faster packed is than plain.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and may fail")]

use std::time::Instant;

use gptq_core::{Backend, Bits, QuantizedMatrix};
use gptq_kernels::cuda::{CudaBackend, CudaPacked, Half};
use gptq_pack::{PackedBackend, PackedLinear, ZeroPointFormat};
use ndarray::Array2;

/// Outputs and inputs: attention, gate or up, and down of a LLaMA of 8B parameters.
const SHAPES: [(usize, usize); 4] = [(4096, 4096), (6144, 4096), (14336, 4096), (4096, 14336)];
const TOKENS: [usize; 7] = [1, 2, 8, 16, 64, 512, 4096];
/// More than any cache.
const WORKING_SET: u64 = 240_000_000;
const ROUNDS: usize = 12;

fn main() {
    let gpu = match CudaBackend::open(0) {
        Ok(gpu) => gpu.with_half(Half::F16),
        Err(error) => return println!("{error}"),
    };
    let bandwidth = gpu.read_bandwidth().unwrap();
    println!("{}; reads {:.0} GB/s", gpu.describe(), bandwidth / 1e9);
    println!(
        "{:>13} {:>6} {:>10} {:>10} {:>13} {:>10} {:>7}",
        "out × in", "tokens", "packed µs", "plain µs", "packed TFLOP/s", "bandwidth", "faster"
    );
    for (outs, ins) in SHAPES {
        let matrix = QuantizedMatrix {
            bits: Bits::B4,
            codes: numbers(outs, ins, 1).mapv(|v| ((v + 1.0) * 7.99) as u8),
            scales: numbers(outs, ins / 128, 2).mapv(|v| 0.01 + 0.001 * v),
            zeros: Array2::from_elem((outs, ins / 128), 8),
            g_idx: (0..ins as u32).map(|c| c / 128).collect(),
        };
        let packed = PackedLinear::pack(&matrix, ZeroPointFormat::GptqV2).unwrap();
        let weights = matrix.dequantize();
        let packed = enough(&gpu, || gpu.prepare(&packed).unwrap());
        let plain = enough(&gpu, || gpu.prepare_dense(weights.view(), None).unwrap());
        for tokens in TOKENS {
            let x = gpu.take(numbers(tokens, ins, 3)).unwrap();
            let (ours, theirs) = (time(&gpu, &x, &packed), time(&gpu, &x, &plain));
            let read = gpu.packed_bytes(&packed[0]) as f64 / ours;
            let flops = 2.0 * (outs * ins * tokens) as f64 / ours;
            println!(
                "{:>13} {tokens:>6} {:>10.1} {:>10.1} {:>13.1} {:>9.0}% {:>6.2}x",
                format!("{outs}×{ins}"),
                ours * 1e6,
                theirs * 1e6,
                flops / 1e12,
                100.0 * read / bandwidth,
                theirs / ours
            );
        }
    }
}

/// Reproducible numbers in [-1, 1).
fn numbers(rows: usize, columns: usize, seed: u32) -> Array2<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    Array2::from_shape_simple_fn((rows, columns), || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    })
}

fn enough(gpu: &CudaBackend, mut make: impl FnMut() -> CudaPacked) -> Vec<CudaPacked> {
    let first = make();
    let many = WORKING_SET.div_ceil(gpu.packed_bytes(&first)).max(1) as usize;
    std::iter::once(first).chain((1..many).map(|_| make())).collect()
}

/// Seconds of one product.
fn time(gpu: &CudaBackend, x: &<CudaBackend as Backend>::Tensor, layers: &[CudaPacked]) -> f64 {
    let mut best = f64::MAX;
    // The first round runs, the second is recorded, the others replay.
    for _ in 0..ROUNDS {
        gpu.finish().unwrap();
        let started = Instant::now();
        for layer in layers {
            gpu.packed_linear(x, layer).unwrap();
        }
        gpu.finish().unwrap();
        best = best.min(started.elapsed().as_secs_f64());
    }
    best / layers.len() as f64
}
