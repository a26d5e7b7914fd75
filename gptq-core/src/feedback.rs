//! What closed columns owe to open ones, inside a block and behind it: [`Feedback`].

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, Zip, s};

use crate::{
    Linalg,
    loops::{Loop, Spread},
};

/// What columns owe to those behind them.
pub(crate) struct Feedback<'a> {
    /// Upper factor of H⁻¹, in processing order.
    pub(crate) u: ArrayView2<'a, f32>,
    /// GPTAQ's shift, strictly upper triangular.
    pub(crate) p: Option<ArrayView2<'a, f32>>,
    /// FOEM's share; 0 is GPTQ.
    pub(crate) beta: f32,
    pub(crate) linalg: &'a dyn Linalg,
}

/// Columns × rows of a layer.
pub(crate) type Columns<'a> = ArrayView2<'a, f32>;

impl Feedback<'_> {
    /// Pays columns `to` what closed columns `from` of their block owe them, column by column;
    /// `weights` are the closed ones before rounding.
    pub(crate) fn spread(
        &self,
        from: Range<usize>,
        (errors, weights): (Columns<'_>, Columns<'_>),
        to: Range<usize>,
        mut w: ArrayViewMut2<'_, f32>,
    ) {
        let owed = s![from, to];
        self.linalg.run(Loop::spread(Spread {
            u: self.u.slice(owed),
            errors: slice(errors),
            shift: self.p.as_ref().map(|p| (p.slice(owed), slice(weights))),
            rows: w.ncols(),
            open: w.as_slice_mut().expect("rows of a fresh array"),
        }));
    }

    /// The same for columns of later blocks, as a product. GPTAQ's part is that of the rounded
    /// weights here.
    pub(crate) fn pay(
        &self,
        from: Range<usize>,
        (errors, weights): (Columns<'_>, Columns<'_>),
        to: Range<usize>,
        mut w: ArrayViewMut2<'_, f32>,
    ) {
        let owed = s![from.clone(), to];
        self.linalg.gemm(-1.0, self.u.slice(owed).t(), errors, w.view_mut());
        if let Some(p) = &self.p {
            let mut closed = weights.to_owned();
            for ((c, mut w), e) in from.zip(closed.rows_mut()).zip(errors.rows()) {
                let pivot = self.u[(c, c)];
                Zip::from(&mut w).and(e).for_each(|w, e| *w -= e * pivot);
            }
            self.linalg.gemm(1.0, p.slice(owed).t(), closed.view(), w);
        }
    }
}

pub(crate) fn slice(columns: Columns<'_>) -> &[f32] {
    columns.to_slice().expect("rows of a fresh array")
}
