//! Norms, rotations and activations: one pass over memory each.

use ndarray::{Array2, Axis, Zip};
use rayon::prelude::*;

use super::{
    exp::exp,
    isa::{Isa, Kernel, mul_add},
};

/// Elements per task of an elementwise operation.
const CHUNK: usize = 16 * 1024;

pub(crate) fn rms_norm(isa: Isa, x: &Array2<f32>, weight: &Array2<f32>, eps: f32) -> Array2<f32> {
    let mut y = Array2::zeros(x.dim());
    let weight = row_major(weight);
    Zip::from(y.rows_mut()).and(x.rows()).par_for_each(|mut y, x| {
        let x = x.to_slice().expect("tensors are row-major");
        let y = y.as_slice_mut().expect("rows of a fresh array");
        isa.run(RmsNorm { x, weight, y, eps });
    });
    y
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    y: &'a mut [f32],
    eps: f32,
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        const LANES: usize = 32;
        let mut sums = [0f32; LANES];
        for chunk in self.x.chunks(LANES) {
            for (sum, &x) in sums.iter_mut().zip(chunk) {
                *sum = mul_add::<FMA>(x, x, *sum);
            }
        }
        let mean = sums.iter().sum::<f32>() / self.x.len() as f32;
        let factor = 1.0 / (mean + self.eps).sqrt();
        for ((y, &x), &w) in self.y.iter_mut().zip(self.x).zip(self.weight) {
            *y = x * factor * w;
        }
    }
}

pub(crate) fn rope(x: &mut Array2<f32>, cos: &Array2<f32>, sin: &Array2<f32>, head_dim: usize) {
    let half = cos.ncols();
    Zip::from(x.rows_mut()).and(cos.rows()).and(sin.rows()).par_for_each(|mut row, cos, sin| {
        let row = row.as_slice_mut().expect("tensors are row-major");
        for head in row.chunks_exact_mut(head_dim) {
            let (first, second) = head.split_at_mut(half);
            for (((a, b), &c), &s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
            }
        }
    });
}

pub(crate) fn gated_silu(isa: Isa, gate: &Array2<f32>, up: &Array2<f32>) -> Array2<f32> {
    let mut y = Array2::zeros(gate.dim());
    let (gate, up) = (row_major(gate), row_major(up));
    let out = y.as_slice_mut().expect("a fresh array");
    out.par_chunks_mut(CHUNK)
        .zip(gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)))
        .for_each(|(y, (gate, up))| isa.run(GatedSilu { gate, up, y }));
    y
}

struct GatedSilu<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for GatedSilu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for ((y, &g), &u) in self.y.iter_mut().zip(self.gate).zip(self.up) {
            *y = g / (1.0 + exp::<FMA>(-g)) * u;
        }
    }
}

fn row_major(a: &Array2<f32>) -> &[f32] {
    a.as_slice().expect("tensors are row-major")
}

pub(crate) fn add_assign(x: &mut Array2<f32>, y: &Array2<f32>) {
    Zip::from(x).and(y).par_for_each(|x, &y| *x += y);
}

pub(crate) fn gather(table: &Array2<f32>, rows: &[u32]) -> Array2<f32> {
    let rows: Vec<usize> = rows.iter().map(|&r| r as usize).collect();
    table.select(Axis(0), &rows)
}
