//! What this machine can do at most: the numbers that kernels are measured against.

use std::{hint::black_box, thread, time::Instant};

use gptq_core::Backend;
use ndarray::Array2;

use crate::{
    CpuBackend, Isa, Precision,
    cpu::{Kernel, Line, Lines, int8_peak},
};

/// More than any cache holds.
const BYTES: usize = 512 << 20;

/// Passes of each way of reading, of which the fastest of all counts.
const PASSES: usize = 5;

/// Bytes per second that `threads` threads read from memory together, each its own share of half a
/// gigabyte on large pages: in four places side by side, in one place, and in one place with as much
/// arithmetic in between as products have. Which is fastest depends on what the CPU's prefetchers
/// make of it: Zen 4 reads a fifth more of a place where loads do not come at once. Takes about
/// a second.
pub fn read_bandwidth(threads: usize) -> f64 {
    let (threads, isa) = (threads.max(1), Isa::best());
    let memory = Lines::zeroed(BYTES / size_of::<Line>());
    let share = memory.len() / threads;
    let parts: Vec<&[Line]> = memory.chunks_exact(share).take(threads).collect();
    let fastest = |way: fn(Isa, &[Line])| {
        let pass = || {
            let started = Instant::now();
            thread::scope(|scope| {
                for &part in &parts {
                    scope.spawn(move || way(isa, part));
                }
            });
            (share * threads * size_of::<Line>()) as f64 / started.elapsed().as_secs_f64()
        };
        (0..PASSES).map(|_| pass()).fold(0.0, f64::max)
    };
    fastest(read::<4, false>).max(fastest(read::<1, false>)).max(fastest(read::<1, true>))
}

fn read<const PLACES: usize, const BUSY: bool>(isa: Isa, lines: &[Line]) {
    black_box(isa.run(Sum::<PLACES, BUSY>(lines)));
}

struct Sum<'a, const PLACES: usize, const BUSY: bool>(&'a [Line]);

impl<const PLACES: usize, const BUSY: bool> Kernel for Sum<'_, PLACES, BUSY> {
    type Output = u32;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> u32 {
        // Independent sums, so that only memory limits them, and loops of fixed length over arrays,
        // which every build turns into vectors.
        const LINES: usize = 4;
        let mut sums = [[0u32; 16]; LINES];
        let each = self.0.len() / PLACES / LINES * LINES;
        let places: [&[Line]; PLACES] =
            std::array::from_fn(|place| &self.0[place * each..][..each]);
        for at in (0..each).step_by(LINES) {
            for place in places {
                let lines: &[Line; LINES] = place[at..].first_chunk().expect("whole blocks");
                for l in 0..LINES {
                    let mut sum = sums[l];
                    for (sum, word) in sum.iter_mut().zip(lines[l].0) {
                        *sum = if BUSY {
                            (*sum ^ (word & 0x0f0f_0f0f)).wrapping_add(word >> 4 & 0x0f0f_0f0f)
                        } else {
                            *sum ^ word
                        };
                    }
                    sums[l] = sum;
                }
            }
        }
        sums.as_flattened().iter().fold(0, |a, b| a ^ b)
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
