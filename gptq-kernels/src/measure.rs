//! What this machine can do at most: the numbers that kernels are measured against.

use std::{hint::black_box, thread, time::Instant};

use gptq_core::Backend;
use ndarray::Array2;

use crate::{
    CpuBackend, Isa, Precision,
    cpu::{Kernel, int8_peak},
};

/// More than any cache holds.
const BYTES: usize = 512 << 20;

/// Places that a thread reads side by side.
const STREAMS: usize = 4;

/// Passes, of which the fastest counts.
const PASSES: usize = 5;

/// Bytes per second that `threads` threads read from memory together, each its own share of half a
/// gigabyte in several places side by side: prefetchers follow each place by itself, and one alone
/// does not keep a core busy. Takes about a second.
pub fn read_bandwidth(threads: usize) -> f64 {
    let (threads, isa) = (threads.max(1), Isa::best());
    let words = vec![1u64; BYTES / size_of::<u64>()];
    let share = words.len() / threads;
    let pass = || {
        let started = Instant::now();
        thread::scope(|scope| {
            for part in words.chunks_exact(share).take(threads) {
                scope.spawn(move || black_box(isa.run(Sum(part))));
            }
        });
        (share * threads * size_of::<u64>()) as f64 / started.elapsed().as_secs_f64()
    };
    (0..PASSES).map(|_| pass()).fold(0.0, f64::max)
}

struct Sum<'a>(&'a [u64]);

impl Kernel for Sum<'_> {
    type Output = u64;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> u64 {
        // Independent sums, so that only memory limits them.
        const LANES: usize = 32;
        let mut sums = [0u64; LANES];
        let parts: [&[[u64; LANES]]; STREAMS] = {
            let (words, _) = self.0.as_chunks();
            let each = words.len() / STREAMS;
            std::array::from_fn(|part| &words[part * each..][..each])
        };
        let [a, b, c, d] = parts;
        for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
            for i in 0..LANES {
                sums[i] ^= a[i] ^ b[i] ^ c[i] ^ d[i];
            }
        }
        sums.iter().fold(0, |a, b| a ^ b)
    }
}

/// Operations per second of products of f32 matrices, 2048 on each side, on the caller's pool; the
/// best of several passes. A multiplication and an addition are two operations.
pub fn f32_products(isa: Isa) -> f64 {
    products(&CpuBackend::with_isa(isa))
}

/// The same of products whose factors are rounded to bf16, packing included; `None` where the CPU
/// has no instructions for them.
pub fn bf16_products(isa: Isa) -> Option<f64> {
    let backend = CpuBackend::with_isa(isa).with_precision(Precision::Bf16);
    if backend.precision() != Precision::Bf16 {
        return None;
    }
    Some(products(&backend))
}

fn products(backend: &CpuBackend) -> f64 {
    let (x, w) = (matrix(SIDE), matrix(SIDE));
    operations(|| {
        black_box(backend.linear(&x, &w, None).is_ok());
    })
}

/// Operations per second of the instruction that sums products of bytes, on `threads` threads;
/// `None` where the CPU has none.
pub fn int8_dots(isa: Isa, threads: usize) -> Option<f64> {
    int8_peak(isa, 1)?;
    const ROUNDS: usize = 1 << 22;
    let pass = || {
        let started = Instant::now();
        let done = thread::scope(|scope| {
            let work = |_| scope.spawn(|| int8_peak(isa, ROUNDS));
            let all: Vec<_> = (0..threads.max(1)).map(work).collect();
            all.into_iter().filter_map(|thread| thread.join().ok().flatten()).sum::<u64>()
        });
        done as f64 / started.elapsed().as_secs_f64()
    };
    Some((0..PASSES).map(|_| pass()).fold(0.0, f64::max))
}

/// Side of the matrices.
const SIDE: usize = 2048;

fn matrix(n: usize) -> Array2<f32> {
    Array2::from_shape_fn((n, n), |(r, c)| ((r * 31 + c * 17) % 97) as f32 / 97.0 - 0.5)
}

fn operations(mut product: impl FnMut()) -> f64 {
    let mut pass = || {
        let started = Instant::now();
        product();
        2.0 * (SIDE as f64).powi(3) / started.elapsed().as_secs_f64()
    };
    (0..PASSES).map(|_| pass()).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_is_read_at_a_believable_rate() {
        let rate = super::read_bandwidth(1);
        assert!((1e8..1e13).contains(&rate), "{rate}");
    }
}
