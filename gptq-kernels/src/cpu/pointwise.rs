//! Activations, alone and as gates.

use gptq_core::{Gate, Pointwise};
use ndarray::{Array2, ArrayViewMut2};
use rayon::prelude::*;

use super::{
    exp::{exp, normal_cdf, sigmoid, tanh},
    isa::{Isa, Kernel},
    rows::{row_major, written},
};

/// Elements per task.
const CHUNK: usize = 16 * 1024;

/// Elements that stay in the nearest cache between two passes.
const BLOCK: usize = 1024;

pub(crate) fn apply(isa: Isa, x: &mut Array2<f32>, f: Pointwise) {
    let x = x.as_slice_mut().expect("tensors are row-major");
    x.par_chunks_mut(CHUNK).for_each(|x| isa.run(Apply { f, x }));
}

pub(crate) fn gated(isa: Isa, gate: &Array2<f32>, up: &Array2<f32>, f: Gate) -> Array2<f32> {
    assert_eq!(gate.dim(), up.dim(), "gated: gate and up have other shapes");
    let shape = gate.dim();
    let (gate, up) = (row_major(gate), row_major(up));
    let chunks = |mut y: ArrayViewMut2<'_, f32>| {
        let y = y.as_slice_mut().expect("a fresh array");
        y.par_chunks_mut(CHUNK)
            .zip(gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)))
            .for_each(|(y, (gate, up))| isa.run(Gated { f, gate, up, y }));
    };
    // SAFETY: each chunk is written from front to back.
    unsafe { written(shape, chunks) }
}

struct Apply<'a> {
    f: Pointwise,
    x: &'a mut [f32],
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        match self.f {
            Pointwise::Scale(c) => map(self.x, |x| c * x),
            Pointwise::Clamp(c) => map(self.x, |x| clamp(x, -c, c)),
            Pointwise::SoftCap(c) => map(self.x, |x| c * tanh::<FMA>(x / c)),
            Pointwise::Silu => map(self.x, |x| x / (1.0 + exp::<FMA>(-x))),
            Pointwise::Gelu => map(self.x, |x| x * normal_cdf::<FMA>(x)),
            // (1 + tanh u) / 2 = sigmoid(2u), without the cancellation; this is √(8/π).
            Pointwise::GeluTanh => map(self.x, |x| {
                let u = 1.595_769 * (x + 0.044_715 * x * x * x);
                x / (1.0 + exp::<FMA>(-u))
            }),
            Pointwise::Relu => map(self.x, |x| if x < 0.0 { 0.0 } else { x }),
        }
    }
}

struct Gated<'a> {
    f: Gate,
    gate: &'a [f32],
    up: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let blocks =
            self.y.chunks_mut(BLOCK).zip(self.gate.chunks(BLOCK).zip(self.up.chunks(BLOCK)));
        for (y, (gate, up)) in blocks {
            y.copy_from_slice(gate);
            match self.f {
                Gate::Of(f) => {
                    Apply { f, x: &mut *y }.run::<FMA>();
                    for (y, u) in y.iter_mut().zip(up) {
                        *y *= u;
                    }
                }
                Gate::Clamped { limit, alpha } => {
                    for (y, &u) in y.iter_mut().zip(up) {
                        let g = if *y > limit { limit } else { *y };
                        let u = clamp(u, -limit, limit);
                        *y = (u + 1.0) * g * sigmoid::<FMA>(alpha * g);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn map(x: &mut [f32], f: impl Fn(f32) -> f32) {
    for x in x {
        *x = f(*x);
    }
}

/// Neither panics for bounds in the wrong order nor hides a NaN.
#[inline(always)]
fn clamp(x: f32, low: f32, high: f32) -> f32 {
    if x > high {
        high
    } else if x < low {
        low
    } else {
        x
    }
}
