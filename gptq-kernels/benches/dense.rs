//! Dense products: `cargo bench -p gptq-kernels --bench dense`. Items are floating-point operations.

use divan::{Bencher, counter::ItemsCount};
use gptq_core::{Backend, Linalg};
use gptq_kernels::{CpuBackend, Isa, Precision};
use ndarray::Array2;

fn main() {
    // As `gptq` does.
    gptq_kernels::keep_memory();
    divan::main();
}

fn values(rows: usize, columns: usize) -> Array2<f32> {
    Array2::from_shape_fn((rows, columns), |(r, c)| ((r * 31 + c * 17) % 97) as f32 / 97.0 - 0.5)
}

fn backends() -> Vec<CpuBackend> {
    let of = |isa| {
        [Precision::F32, Precision::Bf16].map(|p| CpuBackend::with_isa(isa).with_precision(p))
    };
    let mut all: Vec<CpuBackend> = Isa::available().into_iter().flat_map(of).collect();
    all.reverse();
    all.dedup_by_key(|b| (b.isa(), b.precision()));
    all.retain(|b| b.isa() == Isa::best() || b.precision() == Precision::Bf16);
    all
}

struct Case(CpuBackend);

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.0.isa().name(), self.0.precision().name())
    }
}

fn cases() -> Vec<Case> {
    backends().into_iter().map(Case).collect()
}

#[divan::bench(args = cases(), sample_count = 10)]
fn linear_2048_2048_5632(bencher: Bencher<'_, '_>, case: &Case) {
    let (x, w) = (values(2048, 2048), values(5632, 2048));
    let flops = 2 * 2048usize * 2048 * 5632;
    bencher.counter(ItemsCount::new(flops)).bench(|| case.0.linear(&x, &w, None));
}

#[divan::bench(args = cases(), sample_count = 10)]
fn linear_2048_768_768(bencher: Bencher<'_, '_>, case: &Case) {
    let (x, w) = (values(2048, 768), values(768, 768));
    bencher
        .counter(ItemsCount::new(2 * 2048usize * 768 * 768))
        .bench(|| case.0.linear(&x, &w, None));
}

/// Of the square, although half of it is computed: n² · tokens operations.
#[divan::bench(args = cases(), sample_count = 10)]
fn gram_2048_4096(bencher: Bencher<'_, '_>, case: &Case) {
    let x = values(2048, 4096);
    let mut h = Array2::zeros((4096, 4096));
    bencher
        .counter(ItemsCount::new(4096usize * 4096 * 2048))
        .bench_local(|| case.0.accumulate_gram(&mut h, &x));
}

/// One thread.
#[divan::bench(sample_count = 10)]
fn gemm_f32_1024(bencher: Bencher<'_, '_>) {
    let (a, b) = (values(1024, 1024), values(1024, 1024));
    let mut c = Array2::zeros((1024, 1024));
    bencher
        .counter(ItemsCount::new(2 * 1024usize.pow(3)))
        .bench_local(|| CpuBackend::new().gemm(1.0, a.view(), b.view(), c.view_mut()));
}
