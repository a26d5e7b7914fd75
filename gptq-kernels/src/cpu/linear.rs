//! `y = x · wᵀ + bias`.

use ndarray::{Array2, Axis, s};
use rayon::prelude::*;

use super::{
    bf16::{self, Packed, Side},
    gemm::{product, tiles},
    isa::{Isa, Kernel, mul_add},
};

/// Tokens and outputs per task.
const TOKENS: usize = 128;
const OUTPUTS: usize = 256;

/// Below this many tokens, packing the weights costs more than it saves.
pub(super) const FEW: usize = 16;

pub(crate) fn linear(
    isa: Isa,
    x: &Array2<f32>,
    w: &Array2<f32>,
    bias: Option<&Array2<f32>>,
) -> Array2<f32> {
    let mut y = Array2::zeros((x.nrows(), w.nrows()));
    let one_token = x.nrows() == 1;
    tiles(y.view_mut(), TOKENS, OUTPUTS).into_par_iter().for_each(|mut tile| {
        let (tokens, outputs) = tile.view.dim();
        let w = w.slice(s![tile.column..tile.column + outputs, ..]);
        if one_token {
            // A packed product would copy all of w to use it once.
            let x = x.row(0);
            let x = x.as_slice().expect("tensors are row-major");
            for (y, w) in tile.view.iter_mut().zip(w.rows()) {
                *y = isa.run(Dot { a: w.to_slice().expect("tensors are row-major"), b: x });
            }
        } else {
            let x = x.slice(s![tile.row..tile.row + tokens, ..]);
            product(isa, 1.0, x, w.t(), tile.view.view_mut(), false);
        }
        if let Some(bias) = bias {
            tile.view += &bias.slice(s![.., tile.column..tile.column + outputs]);
        }
    });
    y
}

/// A weight and its bias.
type Weight<'a> = (&'a Array2<f32>, Option<&'a Array2<f32>>);

/// Several linears of one input, which is packed once.
pub(crate) fn linear_each(
    isa: Isa,
    in_bf16: bool,
    x: &Array2<f32>,
    linears: &[Weight<'_>],
) -> Vec<Array2<f32>> {
    if !in_bf16 || x.nrows() < FEW || linears.is_empty() {
        return linears.iter().map(|(w, bias)| linear(isa, x, w, *bias)).collect();
    }
    let left = Packed::new(isa, x.view(), Side::Left);
    let product = |(w, bias): &Weight<'_>| {
        let mut y = Array2::zeros((x.nrows(), w.nrows()));
        let right = Packed::new(isa, w.view(), Side::Right);
        bf16::multiply(isa, &left, &right, y.view_mut(), false, |_| true);
        if let Some(bias) = bias {
            let bias = bias.row(0);
            y.axis_iter_mut(Axis(0)).into_par_iter().for_each(|mut row| row += &bias);
        }
        y
    };
    linears.iter().map(product).collect()
}

struct Dot<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

impl Kernel for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> f32 {
        // Independent sums hide the latency of the adder.
        const LANES: usize = 64;
        assert_eq!(self.a.len(), self.b.len(), "dot: operands differ in length");
        let (a, a_rest) = self.a.as_chunks::<LANES>();
        let (b, b_rest) = self.b.as_chunks::<LANES>();
        let mut sums = [0f32; LANES];
        for (a, b) in a.iter().zip(b) {
            for i in 0..LANES {
                sums[i] = mul_add::<FMA>(a[i], b[i], sums[i]);
            }
        }
        let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
        sums.iter().sum::<f32>() + rest
    }
}
