//! [`Dense`]: weights that are not packed, in half the memory where that loses nothing.

use half::{bf16, f16};
use ndarray::{Array2, ArrayView2, ArrayViewMut2, s};

use super::{
    super::{
        gemm::product,
        isa::{Isa, Kernel, mul_add, total},
    },
    half::{Bf16, Element, F16},
    tiles::STRIP,
};

/// Tokens up to which rows are read once per token; more, and they are widened first.
const FEW: usize = 4;

/// out × in, row-major.
#[derive(Clone, Debug)]
pub(crate) enum Dense {
    /// Every weight is exactly a bf16.
    Bf16(Vec<Bf16>),
    /// Every weight is exactly a half-precision number.
    F16(Vec<F16>),
    F32(Vec<f32>),
}

impl Dense {
    pub(crate) fn new(weight: ArrayView2<'_, f32>) -> Self {
        let exact = |narrow: fn(f32) -> f32| weight.iter().all(|&w| narrow(w) == w);
        if exact(|w| bf16::from_f32(w).to_f32()) {
            Self::Bf16(weight.iter().map(|&w| Bf16(bf16::from_f32(w).to_bits())).collect())
        } else if exact(|w| f16::from_f32(w).to_f32()) && weight.iter().all(|w| w.is_finite()) {
            Self::F16(weight.iter().map(|&w| F16(f16::from_f32(w).to_bits())).collect())
        } else {
            Self::F32(weight.iter().copied().collect())
        }
    }

    /// Bytes that a product reads.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Bf16(w) => size_of_val::<[_]>(w),
            Self::F16(w) => size_of_val::<[_]>(w),
            Self::F32(w) => size_of_val::<[_]>(w),
        }
    }

    pub(crate) fn widened(&self, out: usize, columns: usize) -> Array2<f32> {
        let at = |i: usize| match self {
            Self::Bf16(w) => w[i].widen(),
            Self::F16(w) => w[i].widen(),
            Self::F32(w) => w[i],
        };
        Array2::from_shape_fn((out, columns), |(r, c)| at(r * columns + c))
    }
}

/// `y = x · Wᵀ` for [`STRIP`] outputs: `x` is tokens × in, `y` tokens × outputs of the strip.
pub(crate) fn strip(
    isa: Isa,
    dense: &Dense,
    strip: usize,
    x: ArrayView2<'_, f32>,
    y: ArrayViewMut2<'_, f32>,
) {
    match dense {
        Dense::Bf16(w) => rows(isa, w, strip, x, y),
        Dense::F16(w) => rows(isa, w, strip, x, y),
        Dense::F32(w) => rows(isa, w, strip, x, y),
    }
}

fn rows<E: Element>(
    isa: Isa,
    w: &[E],
    strip: usize,
    x: ArrayView2<'_, f32>,
    mut y: ArrayViewMut2<'_, f32>,
) {
    let (columns, outputs) = (x.ncols(), y.ncols());
    let w = &w[strip * STRIP * columns..][..outputs * columns];
    if x.nrows() <= FEW {
        for (x, mut y) in x.rows().into_iter().zip(y.rows_mut()) {
            let x = x.to_slice().expect("tensors are row-major");
            let mut outputs = y.iter_mut();
            for w in w.chunks(4 * columns) {
                let sums = isa.run(Dots { w, x });
                sums.iter().zip(&mut outputs).take(w.len() / columns).for_each(|(s, y)| *y = *s);
            }
        }
        return;
    }
    // A panel as wide as fits a cache.
    let width = (64 * 1024 / STRIP).min(columns);
    let mut panel = Array2::zeros((outputs, width));
    for start in (0..columns).step_by(width) {
        let end = (start + width).min(columns);
        let mut panel = panel.slice_mut(s![.., ..end - start]);
        for (mut wide, w) in panel.rows_mut().into_iter().zip(w.chunks_exact(columns)) {
            let wide = wide.as_slice_mut().expect("a row");
            isa.run(Widen { w: &w[start..end], wide });
        }
        product(isa, 1.0, x.slice(s![.., start..end]), panel.t(), y.view_mut(), start > 0);
    }
}

struct Widen<'a, E> {
    w: &'a [E],
    wide: &'a mut [f32],
}

impl<E: Element> Kernel for Widen<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (wide, w) in self.wide.iter_mut().zip(self.w) {
            *wide = w.widen();
        }
    }
}

/// Up to four rows times one token.
struct Dots<'a, E> {
    w: &'a [E],
    x: &'a [f32],
}

impl<E: Element> Kernel for Dots<'_, E> {
    type Output = [f32; 4];

    #[inline(always)]
    fn run<const FMA: bool>(self) -> [f32; 4] {
        // Independent sums hide the latency of the adder.
        const LANES: usize = 32;
        let mut out = [0.0; 4];
        let n = self.x.len();
        let row = |r: usize| &self.w[(r * n).min(self.w.len())..((r + 1) * n).min(self.w.len())];
        let rows = [row(0), row(1), row(2), row(3)];
        if rows[3].is_empty() {
            for (out, row) in out.iter_mut().zip(rows).filter(|(_, row)| !row.is_empty()) {
                *out = dots::<E, FMA, 1, LANES>([row], self.x)[0];
            }
            return out;
        }
        dots::<E, FMA, 4, LANES>(rows, self.x)
    }
}

/// The sums of a row do not depend on which rows are beside it.
#[inline(always)]
fn dots<E: Element, const FMA: bool, const ROWS: usize, const LANES: usize>(
    rows: [&[E]; ROWS],
    x: &[f32],
) -> [f32; ROWS] {
    let mut sums = [[0f32; LANES]; ROWS];
    let (whole, rest) = x.as_chunks::<LANES>();
    for (c, x) in whole.iter().enumerate() {
        for (row, sums) in rows.iter().zip(&mut sums) {
            let row: &[E; LANES] = row[c * LANES..].first_chunk().expect("a chunk");
            for i in 0..LANES {
                sums[i] = mul_add::<FMA>(row[i].widen(), x[i], sums[i]);
            }
        }
    }
    let mut out = [0.0; ROWS];
    for ((row, sums), out) in rows.iter().zip(&sums).zip(&mut out) {
        let tail = &row[whole.len() * LANES..];
        let tail: f32 = tail.iter().zip(rest).map(|(w, x)| w.widen() * x).sum();
        *out = total(sums) + tail;
    }
    out
}
