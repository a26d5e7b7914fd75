//! Causal softmax attention, a block of queries of one head at a time.

use gptq_core::{AttentionShape, ScoreTerms};
use std::ops::Range;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, s};

use super::{
    exp::{exp, tanh},
    gemm::{Tile, product, tiles},
    isa::{Isa, Kernel, total},
    one_query::OneQuery,
    rows::row_major,
    share::share,
};

/// Queries per task: enough for a real product, few enough to skip most of what is masked.
pub(super) const QUERIES: usize = 64;

/// What there is to know about one head of one text.
pub(super) struct Head<'a> {
    shape: &'a AttentionShape,
    head: usize,
    /// First row of its queries, and of its keys.
    rows: [usize; 2],
    length: usize,
    pub(super) scale: f32,
    key_bias: Option<&'a [f32]>,
    /// Minus infinity where there is none.
    sink: f32,
}

impl<'a> Head<'a> {
    pub(super) fn new(
        head: usize,
        text: usize,
        length: usize,
        shape: &'a AttentionShape,
        terms: ScoreTerms<'a, Array2<f32>>,
    ) -> Self {
        assert!(shape.keys >= length, "attention: {} keys", shape.keys);
        let key_bias = |bias: &'a Array2<f32>| &row_major(bias)[head * bias.ncols()..];
        let sink = |sinks: &'a Array2<f32>| row_major(sinks)[head];
        Self {
            shape,
            head,
            rows: [text * length, text * shape.keys],
            length,
            scale: shape.scale,
            key_bias: terms.key_bias.map(key_bias),
            sink: terms.sinks.map_or(f32::NEG_INFINITY, sink),
        }
    }

    /// Its queries, and all its keys and values.
    pub(super) fn of<'m>(
        &self,
        q: &'m Array2<f32>,
        k: &'m Array2<f32>,
        v: &'m Array2<f32>,
    ) -> [ArrayView2<'m, f32>; 3] {
        let &AttentionShape { heads, kv_heads, head_dim, value_dim, keys, .. } = self.shape;
        assert_eq!(q.ncols(), heads * head_dim, "attention: queries have another width");
        let kv = self.head * kv_heads / heads;
        let [own, behind] = self.rows;
        let part = |of: &'m Array2<f32>, rows: Range<usize>, head: usize, width: usize| {
            of.slice(s![rows, head * width..(head + 1) * width])
        };
        [
            part(q, own..own + self.length, self.head, head_dim),
            part(k, behind..behind + keys, kv, head_dim),
            part(v, behind..behind + keys, kv, value_dim),
        ]
    }

    /// The position of a query.
    fn position(&self, query: usize) -> usize {
        self.shape.keys - self.length + query
    }

    /// The keys that any of these queries sees.
    pub(super) fn seen_by(&self, queries: Range<usize>) -> Range<usize> {
        let first = self.shape.window.first_key(self.position(queries.start));
        first..self.position(queries.end)
    }
}

pub(crate) fn attention(
    isa: Isa,
    q: &Array2<f32>,
    k: &Array2<f32>,
    v: &Array2<f32>,
    shape: &AttentionShape,
    terms: ScoreTerms<'_, Array2<f32>>,
) -> Array2<f32> {
    let &AttentionShape { heads, value_dim, texts, .. } = shape;
    let length = q.nrows() / texts;
    let mut out = Array2::zeros((q.nrows(), heads * value_dim));
    if q.nrows() == 1 {
        let key_bias = terms.key_bias.map(|bias| (row_major(bias), bias.ncols()));
        let sinks = terms.sinks.map(row_major);
        let (q, k, v) = (row_major(q), row_major(k), row_major(v));
        let one = OneQuery { isa, q, k, v, shape, key_bias, sinks };
        one.attend(out.as_slice_mut().expect("a fresh array"));
        return out;
    }
    let parts = of_heads(out.view_mut(), length, QUERIES, value_dim);
    share(parts, |(text, tile)| {
        let head = Head::new(tile.column / value_dim, text, length, shape, terms);
        let [q, k, v] = head.of(q, k, v);
        let queries = tile.row..tile.row + tile.view.nrows();
        let seen = head.seen_by(queries.clone());
        let mut scores = Array2::zeros((queries.len(), seen.len()));
        let (k, v) = (k.slice(s![seen.clone(), ..]), v.slice(s![seen.clone(), ..]));
        let q = q.slice(s![queries.clone(), ..]);
        product(isa, head.scale, q, k.t(), scores.view_mut(), false);
        for (query, row) in queries.zip(scores.rows_mut()) {
            let row = row.into_slice().expect("rows of a fresh array");
            soften(isa, &head, query, seen.start, row);
        }
        product(isa, 1.0, scores.view(), v, tile.view, false);
    });
    out
}

/// Cuts the result into tasks of at most `queries` rows of one head of one text.
pub(super) fn of_heads(
    out: ArrayViewMut2<'_, f32>,
    length: usize,
    queries: usize,
    value_dim: usize,
) -> Vec<(usize, Tile<'_>)> {
    let (length, queries) = (length.max(1), queries.max(1));
    let heads = tiles(out, length, value_dim).into_iter();
    heads
        .flat_map(|Tile { row, column, view }| {
            let parts = tiles(view, queries, value_dim).into_iter();
            parts.map(move |part| (row / length, Tile { column, ..part }))
        })
        .collect()
}

/// Turns the scores of a query with the keys from `first` on into weights; zero for those it does
/// not see.
pub(super) fn soften(isa: Isa, head: &Head<'_>, query: usize, first: usize, row: &mut [f32]) {
    let position = head.position(query);
    let seen = head.shape.window.first_key(position)..position + 1;
    let key_bias = head.key_bias.map(|bias| &bias[seen.clone()]);
    let seen = seen.start - first..seen.end - first;
    row[..seen.start].fill(0.0);
    row[seen.end..].fill(0.0);
    let (softcap, sink) = (head.shape.softcap, head.sink);
    isa.run(Softmax { row: &mut row[seen], softcap, key_bias, sink });
}

pub(crate) struct Softmax<'a> {
    pub(crate) row: &'a mut [f32],
    pub(crate) softcap: Option<f32>,
    pub(crate) key_bias: Option<&'a [f32]>,
    /// One more score, without an entry of the row; minus infinity where there is none.
    pub(crate) sink: f32,
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { row, softcap, key_bias, sink } = self;
        let (top, sum) =
            Exponentials { row: &mut *row, softcap, key_bias, least: sink }.run::<FMA>();
        let share = 1.0 / (sum + exp::<FMA>(sink - top));
        for x in row {
            *x *= share;
        }
    }
}

/// Makes scores `exp(score − top)`, of which the largest is 1. Returns top, `least` or more, and
/// their sum.
pub(crate) struct Exponentials<'a> {
    pub(crate) row: &'a mut [f32],
    pub(crate) softcap: Option<f32>,
    pub(crate) key_bias: Option<&'a [f32]>,
    pub(crate) least: f32,
}

impl Kernel for Exponentials<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn run<const FMA: bool>(self) -> (f32, f32) {
        // Two vectors, so that one waits less for the other.
        const LANES: usize = 32;
        if let Some(cap) = self.softcap {
            for x in self.row.iter_mut() {
                *x = cap * tanh::<FMA>(*x / cap);
            }
        }
        if let Some(bias) = self.key_bias {
            for (x, b) in self.row.iter_mut().zip(bias) {
                *x += b;
            }
        }
        let (chunks, rest) = self.row.as_chunks_mut::<LANES>();
        let mut tops = [f32::NEG_INFINITY; LANES];
        for chunk in &*chunks {
            for i in 0..LANES {
                tops[i] = if chunk[i] > tops[i] { chunk[i] } else { tops[i] };
            }
        }
        let top = tops.iter().chain(&*rest).fold(self.least, |a, &b| a.max(b));
        let mut sums = [0f32; LANES];
        for chunk in chunks {
            for i in 0..LANES {
                chunk[i] = exp::<FMA>(chunk[i] - top);
                sums[i] += chunk[i];
            }
        }
        for x in rest {
            *x = exp::<FMA>(*x - top);
            sums[0] += *x;
        }
        (top, total(&sums))
    }
}
