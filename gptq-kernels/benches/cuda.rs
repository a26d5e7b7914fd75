//! Products on a GPU: `cargo bench -p gptq-kernels --features cuda --bench cuda`.
//!
//! For every shape and number of tokens: 4-bit layers of groups of 128, and the same layers as plain
//! halves, through cuBLAS from 9 tokens on. Calls go round through more layers than the GPU's cache
//! holds, all of them as one CUDA graph, and the best of several rounds counts. Beside the times, the
//! share of the bandwidth that kernels read with at most, how much faster packed is than plain, and
//! how far results are from those of f64. `gptq bench machine --device cuda` is the same for one shape.
//! With `-- 8.0` kernels are those for GPUs of that compute capability.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and may fail")]

use gptq_kernels::cuda::{CudaBackend, Half, Products};

/// Outputs and inputs: attention, gate or up, and down of a LLaMA of 8B parameters.
const SHAPES: [(usize, usize); 4] = [(4096, 4096), (6144, 4096), (14336, 4096), (4096, 14336)];
const TOKENS: [usize; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 4096];

fn main() {
    let version = |text: String| {
        let (major, minor) = text.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let gpu = match std::env::args().find_map(version) {
        Some(capability) => CudaBackend::open_for(0, capability),
        None => CudaBackend::open(0),
    };
    let gpu = match gpu {
        Ok(gpu) => gpu.with_half(Half::F16),
        Err(error) => return println!("{error}"),
    };
    let bandwidth = gpu.read_bandwidth().unwrap();
    println!("{}; reads {:.0} GB/s", gpu.describe(), bandwidth / 1e9);
    println!(
        "{:>13} {:>6} {:>10} {:>10} {:>14} {:>10} {:>7} {:>8}",
        "out × in",
        "tokens",
        "packed µs",
        "plain µs",
        "packed TFLOP/s",
        "bandwidth",
        "faster",
        "error"
    );
    for (outs, ins) in SHAPES {
        let products = Products::new(&gpu, outs, ins).unwrap();
        for tokens in TOKENS {
            let of = products.measure(tokens).unwrap();
            println!(
                "{:>13} {tokens:>6} {:>10.1} {:>10.1} {:>14.1} {:>9.0}% {:>6.2}x {:>8.1e}",
                format!("{outs}×{ins}"),
                of.packed * 1e6,
                of.plain * 1e6,
                of.flops / 1e12,
                100.0 * of.read / bandwidth,
                of.plain / of.packed,
                of.error
            );
        }
    }
}
