//! A backend of your own: implement `Linalg` and the solver runs on it. This one counts its flops.
//!
//! `cargo run -p gptq-examples --example own_backend`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::sync::atomic::{AtomicU64, Ordering};

use gptq_core::{Hessian, Linalg, Portable, QuantConfig, solve};
use ndarray::{Array2, ArrayView2, ArrayViewMut2};

#[derive(Default)]
struct Counting {
    flops: AtomicU64,
}

impl Linalg for Counting {
    fn gemm(
        &self,
        alpha: f32,
        a: ArrayView2<'_, f32>,
        b: ArrayView2<'_, f32>,
        c: ArrayViewMut2<'_, f32>,
    ) {
        let flops = 2 * a.nrows() * a.ncols() * b.ncols();
        self.flops.fetch_add(flops as u64, Ordering::Relaxed);
        Portable.gemm(alpha, a, b, c);
    }
}

fn main() -> Result<(), gptq_core::Error> {
    let (outputs, inputs) = (256, 512);
    let x = Array2::from_shape_fn((1024, inputs), |(t, c)| ((t * 31 + c * 17) % 97) as f32 - 48.0);
    let w =
        Array2::from_shape_fn((outputs, inputs), |(r, c)| ((r * 13 + c * 29) % 89) as f32 - 44.0);
    let mut hessian = Hessian::new(inputs);
    hessian.add_batch(x.view(), 1024)?;
    let counting = Counting::default();
    let solved = solve(w.view(), hessian, &QuantConfig::default(), &counting)?;
    println!(
        "loss {:.3} ({:.0}% of rounding's), {} Mflop in products",
        solved.loss,
        100.0 * solved.loss / solved.rtn_loss,
        counting.flops.into_inner() / 1_000_000
    );
    Ok(())
}
