//! The solver's loops in every instruction set: the same codes and the same loss, bit for bit.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failing test panics")]

use std::num::NonZeroUsize;

use gptq_core::{
    ActOrder, Bits, Damping, GridSearch, GroupSize, Hessian, Linalg, Portable, QuantConfig,
    quantize, solve_with,
};
use gptq_kernels::{CpuBackend, Isa};
use ndarray::Array2;
use proptest::prelude::*;

fn values(rows: usize, columns: usize) -> impl Strategy<Value = Array2<f32>> {
    prop::collection::vec(-1.0..1.0f32, rows * columns)
        .prop_map(move |v| Array2::from_shape_vec((rows, columns), v).unwrap())
}

/// Weights, inputs and inputs without error.
fn layer() -> impl Strategy<Value = [Array2<f32>; 3]> {
    (1..150usize, 1..90usize).prop_flat_map(|(rows, columns)| {
        let tokens = 2 * columns + 3;
        (values(rows, columns), values(tokens, columns), values(tokens, columns))
            .prop_map(|(w, x, native)| [w, x, native])
    })
}

fn settings() -> impl Strategy<Value = QuantConfig> {
    let bits = prop::sample::select(Bits::ALL.to_vec());
    let flags = any::<[bool; 6]>();
    (bits, 1..70usize, flags).prop_map(|(bits, group, [sym, desc, fresh, mse, gptaq, foem])| {
        QuantConfig {
            bits,
            group_size: GroupSize::Columns(NonZeroUsize::new(group).unwrap()),
            sym,
            act_order: if desc { ActOrder::DescAct } else { ActOrder::GroupAware },
            fresh_scales: fresh,
            mse: mse.then(|| GridSearch { grid: 20, ..Default::default() }),
            gptaq_alpha: if gptaq { 0.25 } else { 0.0 },
            foem_beta: if foem { 0.2 } else { 0.0 },
            damping: Damping { percent: 0.05, ..Default::default() },
            ..Default::default()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Within one block no product is needed, so nothing may differ.
    #[test]
    fn instruction_sets_agree_bit_for_bit([w, x, native] in layer(), config in settings()) {
        let mut hessian = Hessian::new(x.ncols());
        hessian.add_batch_with_native(x.view(), native.view(), x.nrows() as u64).unwrap();
        let factor = hessian.finish(&config, &Portable).unwrap();
        let (plain, loss) = quantize(w.view(), &factor, &config, &Portable).unwrap();
        for isa in Isa::available() {
            let backend = CpuBackend::with_isa(isa);
            let (codes, other) = quantize(w.view(), &factor, &config, &backend).unwrap();
            prop_assert_eq!(&codes, &plain, "{}", isa.name());
            prop_assert_eq!(other.to_bits(), loss.to_bits(), "{}", isa.name());
        }
    }
}

fn noise(rows: usize, columns: usize, seed: usize) -> Array2<f32> {
    Array2::from_shape_fn((rows, columns), |(r, c)| {
        ((r * 7919 + c * 104_729 + r * c * seed) % 2003) as f32 / 1001.0 - 1.0
    })
}

/// More columns than a strip of the factorisation and more rows than a tile.
#[test]
fn same_bytes_at_any_thread_count() {
    let (x, w) = (noise(900, 600, 13), noise(300, 600, 7));
    let backend = CpuBackend::new();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut hessian = Hessian::new(600);
            hessian.add_batch(x.view(), 900).unwrap();
            let config = QuantConfig::default();
            let factor = hessian.finish(&config, &backend).unwrap();
            (factor.upper(), solve_with(w.view(), &factor, &config, &backend).unwrap())
        })
    };
    let (u, one) = run(1);
    for threads in [2, 5] {
        let (other_u, other) = run(threads);
        assert_eq!(u, other_u, "{threads} threads");
        assert_eq!(one.quantized, other.quantized, "{threads} threads");
        assert_eq!(one.loss.to_bits(), other.loss.to_bits(), "{threads} threads");
        assert_eq!(one.rtn_loss.to_bits(), other.rtn_loss.to_bits(), "{threads} threads");
    }
}

#[test]
fn the_factor_inverts() {
    for n in [1, 64, 100, 257, 600] {
        let x = noise(2 * n, n, 13).mapv(f64::from);
        let h = x.t().dot(&x) / n as f64 + Array2::<f64>::eye(n);
        let mut u = h.mapv(|v| v as f32);
        CpuBackend::new().inverse_factor(&mut u).unwrap();
        for i in 0..n {
            (0..i).for_each(|j| u[(i, j)] = 0.0);
        }
        let u = u.mapv(f64::from);
        let worst = (u.t().dot(&u).dot(&h) - Array2::<f64>::eye(n))
            .fold(0f64, |worst, e| worst.max(e.abs()));
        assert!(worst < 1e-4, "{n}: {worst}");
    }
}
