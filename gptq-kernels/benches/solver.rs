//! The solver of one linear, each part beside a product of 2048³: what share of the CPU it gets.
//!
//! `cargo bench -p gptq-kernels --bench solver`; `benches/peers/column_loop.py` is the same layer
//! in plain torch.

use divan::{Bencher, counter::BytesCount, counter::ItemsCount};
use gptq_core::{
    ActOrder, Backend, GridSearch, Hessian, InverseFactor, Linalg, QuantConfig, QuantizedMatrix,
    layer_loss, quantize, round_to_nearest,
};
use gptq_kernels::CpuBackend;
use gptq_pack::{PackedLinear, ZeroPointFormat};
use ndarray::Array2;

fn main() {
    // As `gptq` does.
    gptq_kernels::keep_memory();
    divan::main();
}

fn noise(rows: usize, columns: usize) -> Array2<f32> {
    let mut state = 1u64;
    Array2::from_shape_simple_fn((rows, columns), || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    })
}

fn config() -> QuantConfig {
    QuantConfig { act_order: ActOrder::Natural, ..QuantConfig::default() }
}

fn hessian(n: usize) -> Hessian {
    let x = noise(n + n / 2, n);
    let mut sum = Array2::zeros((n, n));
    CpuBackend::new().accumulate_gram(&mut sum, &x).expect("the CPU multiplies");
    Hessian::from_sum(sum, x.nrows() as u64).expect("square")
}

fn factor(n: usize) -> InverseFactor {
    hessian(n).finish(&config(), &CpuBackend::new()).expect("noise has full rank")
}

fn codes(n: usize) -> QuantizedMatrix {
    round_to_nearest(noise(n, n).view(), &config()).expect("finite weights")
}

/// Items are flops.
#[divan::bench(sample_count = 5)]
fn product_2048(bencher: Bencher<'_, '_>) {
    let (x, w) = (noise(2048, 2048), noise(2048, 2048));
    bencher
        .counter(ItemsCount::new(2 * 2048usize.pow(3)))
        .bench(|| CpuBackend::new().linear(&x, &w, None));
}

/// Items are flops.
#[divan::bench(args = [1024, 2048, 4096], sample_count = 3)]
fn inverse_factor(bencher: Bencher<'_, '_>, n: usize) {
    let mut h = hessian(n).matrix();
    h.diag_mut().mapv_inplace(|d| 1.01 * d);
    bencher
        .counter(ItemsCount::new(2 * n.pow(3) / 3))
        .with_inputs(|| h.clone())
        .bench_values(|mut h| CpuBackend::new().inverse_factor(&mut h).map(|()| h));
}

/// Items are flops.
#[divan::bench(args = [2048, 4096], sample_count = 3)]
fn column_loop(bencher: Bencher<'_, '_>, n: usize) {
    let (w, factor) = (noise(n, n), factor(n));
    bencher
        .counter(ItemsCount::new(n.pow(3)))
        .bench(|| quantize(w.view(), &factor, &config(), &CpuBackend::new()));
}

/// Items are flops.
#[divan::bench(args = [4096], sample_count = 3)]
fn loss(bencher: Bencher<'_, '_>, n: usize) {
    let (w, factor, q) = (noise(n, n), factor(n), codes(n).dequantize());
    bencher
        .counter(ItemsCount::new(n.pow(3)))
        .bench(|| layer_loss(w.view(), q.view(), &factor, &CpuBackend::new()));
}

/// The column loop with a search of 80 grids per group; items are weights.
#[divan::bench(args = [1024], sample_count = 3)]
fn grid_search(bencher: Bencher<'_, '_>, n: usize) {
    let config = QuantConfig { mse: Some(GridSearch::default()), ..config() };
    let (w, factor) = (noise(n, n), factor(n));
    bencher
        .counter(ItemsCount::new(n * n))
        .bench(|| quantize(w.view(), &factor, &config, &CpuBackend::new()));
}

/// Items are weights.
#[divan::bench(args = [4096], sample_count = 5)]
fn nearest(bencher: Bencher<'_, '_>, n: usize) {
    let w = noise(n, n);
    bencher.counter(ItemsCount::new(n * n)).bench(|| round_to_nearest(w.view(), &config()));
}

/// Bytes are codes, one each.
#[divan::bench(args = [4096], sample_count = 10)]
fn pack(bencher: Bencher<'_, '_>, n: usize) {
    let q = codes(n);
    bencher.counter(BytesCount::new(n * n)).bench(|| PackedLinear::pack(&q, ZeroPointFormat::Gptq));
}

/// Bytes are codes, one each.
#[divan::bench(args = [4096], sample_count = 10)]
fn unpack_and_compare(bencher: Bencher<'_, '_>, n: usize) {
    let q = codes(n);
    let packed = PackedLinear::pack(&q, ZeroPointFormat::Gptq).expect("a consistent matrix");
    bencher.counter(BytesCount::new(n * n)).bench(|| packed.unpack().codes == q.codes);
}
