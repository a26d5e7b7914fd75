//! Products with prepared linears: `cargo bench -p gptq-kernels --bench linears`.
//!
//! Mat-vecs go round through more than 200 MB of layers, so that caches do not help, and are stated
//! in bytes of weights per second beside what the machine reads at most; products with many tokens
//! are stated in multiplications and additions per second.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and may fail")]

use std::{cell::Cell, sync::Arc};

use divan::{
    Bencher,
    counter::{BytesCount, ItemsCount},
};
use gptq_core::{Bits, QuantizedMatrix};
use gptq_kernels::{CpuBackend, CpuPacked, Precision, measure};
use gptq_pack::{PackedBackend, PackedLinear, ZeroPointFormat};
use ndarray::Array2;
use rayon::{ThreadPool, ThreadPoolBuilder};

const SIZES: [(usize, usize); 2] = [(4096, 4096), (2048, 5632)];
const THREADS: [usize; 2] = [1, 2];
const WORKING_SET: u64 = 220_000_000;

fn main() {
    for threads in THREADS {
        println!("{threads} threads read {:.1} GB/s", measure::read_bandwidth(threads) / 1e9);
    }
    divan::main();
}

fn numbers(rows: usize, columns: usize, seed: u32) -> Array2<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    Array2::from_shape_simple_fn((rows, columns), || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    })
}

fn packed(bits: Bits, (outs, ins): (usize, usize)) -> PackedLinear {
    let maxq = f32::from(bits.maxq());
    let groups = ins / 128;
    let matrix = QuantizedMatrix {
        bits,
        codes: numbers(outs, ins, 1).mapv(|v| ((v + 1.0) / 2.0 * (maxq + 0.99)) as u8),
        scales: Array2::from_elem((outs, groups), 0.0078125),
        zeros: Array2::from_elem((outs, groups), bits.maxq() / 2 + 1),
        g_idx: (0..ins).map(|c| (c / 128) as u32).collect(),
    };
    PackedLinear::pack(&matrix, ZeroPointFormat::Gptq).unwrap()
}

fn pool(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

fn cpu(precision: Precision) -> CpuBackend {
    CpuBackend::new().with_precision(precision)
}

/// Layers one after the other, each read anew.
fn one_token(
    bencher: Bencher<'_, '_>,
    cpu: CpuBackend,
    layer: CpuPacked,
    ins: usize,
    threads: usize,
) {
    let count = WORKING_SET.div_ceil(layer.bytes());
    let layers: Arc<Vec<CpuPacked>> = Arc::new((0..count).map(|_| layer.clone()).collect());
    let x = numbers(1, ins, 2);
    let pool = pool(threads);
    let next = Cell::new(0);
    bencher.counter(BytesCount::new(layer.bytes())).bench_local(|| {
        let layer = &layers[next.replace((next.get() + 1) % layers.len())];
        pool.install(|| cpu.packed_linear(&x, layer).unwrap())
    });
}

macro_rules! mat_vec {
    ($name:ident, $bits:expr, $precision:expr) => {
        #[divan::bench(args = SIZES, consts = THREADS, sample_count = 60, sample_size = 8)]
        fn $name<const N: usize>(bencher: Bencher<'_, '_>, size: (usize, usize)) {
            let cpu = cpu($precision);
            let layer = cpu.prepare(&packed($bits, size)).unwrap();
            one_token(bencher, cpu, layer, size.1, N);
        }
    };
}

mat_vec!(int8_4_bits, Bits::B4, Precision::Int8);
mat_vec!(int8_3_bits, Bits::B3, Precision::Int8);
mat_vec!(int8_2_bits, Bits::B2, Precision::Int8);
mat_vec!(int8_8_bits, Bits::B8, Precision::Int8);
mat_vec!(f32_4_bits, Bits::B4, Precision::F32);
mat_vec!(f32_8_bits, Bits::B8, Precision::F32);

#[divan::bench(args = SIZES, consts = THREADS, sample_count = 60, sample_size = 4)]
fn f32_dense_bf16<const N: usize>(bencher: Bencher<'_, '_>, size: (usize, usize)) {
    let cpu = cpu(Precision::F32);
    let weights = numbers(size.0, size.1, 1).mapv(|w| half::bf16::from_f32(w).to_f32());
    let layer = cpu.prepare_dense(weights.view(), None).unwrap();
    one_token(bencher, cpu, layer, size.1, N);
}

/// 512 tokens.
fn many_tokens(bencher: Bencher<'_, '_>, cpu: CpuBackend, size: (usize, usize), threads: usize) {
    let layer = cpu.prepare(&packed(Bits::B4, size)).unwrap();
    let x = numbers(512, size.1, 2);
    let pool = pool(threads);
    bencher
        .counter(ItemsCount::new(2 * 512 * size.0 * size.1))
        .bench_local(|| pool.install(|| cpu.packed_linear(&x, &layer).unwrap()));
}

#[divan::bench(args = SIZES, consts = THREADS, sample_count = 12, sample_size = 1)]
fn int8_512_tokens<const N: usize>(bencher: Bencher<'_, '_>, size: (usize, usize)) {
    many_tokens(bencher, cpu(Precision::Int8), size, N);
}

#[divan::bench(args = SIZES, consts = THREADS, sample_count = 6, sample_size = 1)]
fn int8_512_tokens_vnni<const N: usize>(bencher: Bencher<'_, '_>, size: (usize, usize)) {
    let vnni = gptq_kernels::Isa::available().into_iter().find(|isa| isa.name() == "avx512-vnni");
    let Some(isa) = vnni else { return };
    many_tokens(bencher, CpuBackend::with_isa(isa).with_precision(Precision::Int8), size, N);
}

#[divan::bench(args = SIZES, consts = THREADS, sample_count = 3, sample_size = 1)]
fn f32_512_tokens<const N: usize>(bencher: Bencher<'_, '_>, size: (usize, usize)) {
    many_tokens(bencher, cpu(Precision::F32), size, N);
}
