//! Norms of rows, a segment at a time.

use std::borrow::Cow;

use gptq_core::{Norm, NormKind};
use ndarray::{Array2, ArrayView1, ArrayViewMut1, ArrayViewMut2, Zip};

use super::{
    isa::{Isa, Kernel, mul_add, total},
    rows::{SMALL, row_major, written},
};

pub(crate) fn norm(isa: Isa, x: &Array2<f32>, norm: &Norm<'_, Array2<f32>>) -> Array2<f32> {
    let &Norm { kind, eps, segment, weight, bias } = norm;
    assert!(
        segment > 0 && x.ncols().is_multiple_of(segment),
        "norm: segments do not fill the columns"
    );
    let weight = weight.map_or(vec![1.0; segment].into(), |w| spread(w, segment, x.ncols()));
    let bias = bias.map(|bias| spread(bias, segment, x.ncols()));
    let (weight, bias) = (&*weight, bias.as_deref());
    let row = |mut y: ArrayViewMut1<'_, f32>, x: ArrayView1<'_, f32>| {
        let x = x.to_slice().expect("tensors are row-major");
        let y = y.as_slice_mut().expect("rows of a fresh array");
        isa.run(Row { kind, eps, segment, x, weight, bias, y });
    };
    let rows = |mut y: ArrayViewMut2<'_, f32>| {
        let rows = Zip::from(y.rows_mut()).and(x.rows());
        if x.len() <= SMALL {
            rows.for_each(row);
        } else {
            rows.par_for_each(row);
        }
    };
    // SAFETY: each row is written from front to back.
    unsafe { written(x.dim(), rows) }
}

/// Factors of whole segments: as they are, or repeated to the full width where they end inside one.
fn spread(a: &Array2<f32>, segment: usize, columns: usize) -> Cow<'_, [f32]> {
    let a = row_major(a);
    assert!(!a.is_empty() && columns.is_multiple_of(a.len()), "norm: weight or bias does not fit");
    if a.len().is_multiple_of(segment) {
        Cow::Borrowed(a)
    } else {
        Cow::Owned(a.iter().copied().cycle().take(columns).collect())
    }
}

struct Row<'a> {
    kind: NormKind,
    eps: f32,
    segment: usize,
    x: &'a [f32],
    /// A number of whole segments, as is the bias.
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    y: &'a mut [f32],
}

impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let n = self.segment;
        for (i, (x, y)) in self.x.chunks(n).zip(self.y.chunks_mut(n)).enumerate() {
            let shift = match self.kind {
                NormKind::Rms => 0.0,
                NormKind::Layer => sum(x, |sum, x| sum + x) / n as f32,
            };
            let squares = sum(x, |sum, x| mul_add::<FMA>(x - shift, x - shift, sum));
            let factor = 1.0 / (squares / n as f32 + self.eps).sqrt();
            let at = i * n;
            let weight = &self.weight[at % self.weight.len()..][..n];
            for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
                *y = (x - shift) * factor * w;
            }
            if let Some(bias) = self.bias {
                for (y, b) in y.iter_mut().zip(&bias[at % bias.len()..][..n]) {
                    *y += b;
                }
            }
        }
    }
}

/// Folds every number into one of several sums, which then are added up.
#[inline(always)]
fn sum(x: &[f32], add: impl Fn(f32, f32) -> f32) -> f32 {
    const LANES: usize = 32;
    let mut sums = [0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum = add(*sum, x);
        }
    }
    rest.iter().fold(total(&sums), |sum, &x| add(sum, x))
}
