//! `y = x · wᵀ + bias`.

use ndarray::{Array2, ArrayView1, ArrayView2, Axis};
use rayon::prelude::*;

use super::{
    bf16::{self, Packed, Side},
    gemm::{multiply, tiles},
    isa::{Isa, Kernel, mul_add, total},
    rows::{row_major, written},
};

/// Outputs per task of one token.
const OUTPUTS: usize = 256;

/// Below this many tokens, packing the weights costs more than it saves.
pub(super) const FEW: usize = 16;

pub(crate) fn linear(
    isa: Isa,
    in_bf16: bool,
    x: &Array2<f32>,
    w: ArrayView2<'_, f32>,
    bias: Option<&[f32]>,
) -> Array2<f32> {
    if in_bf16 && x.nrows() >= FEW {
        let left = Packed::new(isa, x.view(), Side::Left);
        return of_tiles(&left, &Packed::new(isa, w, Side::Right), bias);
    }
    let mut y = Array2::zeros((x.nrows(), w.nrows()));
    if x.nrows() == 1 {
        // A packed product would copy all of w to use it once.
        let x = row_major(x);
        tiles(y.view_mut(), 1, OUTPUTS).into_par_iter().for_each(|mut tile| {
            for (y, w) in tile.view.iter_mut().zip(w.rows().into_iter().skip(tile.column)) {
                *y = isa.run(Dot { a: w.to_slice().expect("tensors are row-major"), b: x });
            }
        });
    } else {
        multiply(isa, x.view(), w.t(), y.view_mut(), false, |_| true);
    }
    add_bias(&mut y, bias);
    y
}

/// The same of operands that are packed already, in bf16.
pub(super) fn of_tiles(x: &Packed, w: &Packed, bias: Option<&[f32]>) -> Array2<f32> {
    // SAFETY: a product that keeps all blocks and adds to none writes everything and reads nothing.
    let mut y = unsafe {
        written((x.rows(), w.rows()), |y| {
            bf16::multiply(x, w, bf16::block(x.isa()), y, false, |_| true)
        })
    };
    add_bias(&mut y, bias);
    y
}

fn add_bias(y: &mut Array2<f32>, bias: Option<&[f32]>) {
    if let Some(bias) = bias {
        let bias = ArrayView1::from(bias);
        y.axis_iter_mut(Axis(0)).into_par_iter().for_each(|mut row| row += &bias);
    }
}

struct Dot<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

impl Kernel for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> f32 {
        dot::<FMA, 64>(self.a, self.b)
    }
}

/// `a · b` in `LANES` independent sums, which hide the latency of the adder.
#[inline(always)]
pub(super) fn dot<const FMA: bool, const LANES: usize>(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "dot: operands differ in length");
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            sums[i] = mul_add::<FMA>(a[i], b[i], sums[i]);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    total(&sums) + rest
}
