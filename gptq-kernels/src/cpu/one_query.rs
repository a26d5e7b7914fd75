//! Attention of one query to the keys before it: what a token costs while text is generated.
//!
//! Keys and values are cut into runs of neighbours, not into heads: then each is one piece of
//! memory, read once, in order, whoever's turn it is. A run gives for every head a sum of values
//! with weights `exp(score − top)`, the sum of these weights, and its top; with tops made equal,
//! sums of runs add up to the softmax of all.

use std::ops::Range;

use gptq_core::AttentionShape;

#[cfg(target_arch = "x86_64")]
use super::one_query_avx512;
use super::{
    attention::Exponentials,
    exp::exp,
    isa::{Isa, Kernel, mul_add},
    linear::dot,
    share::share,
};

/// One query, and keys and values of tokens before and with it, all row-major.
pub(crate) struct OneQuery<'a> {
    pub(crate) isa: Isa,
    pub(crate) q: &'a [f32],
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
    pub(crate) shape: &'a AttentionShape,
    /// heads × keys, and the distance of its rows.
    pub(crate) key_bias: Option<(&'a [f32], usize)>,
    pub(crate) sinks: Option<&'a [f32]>,
}

/// Keys of a run: enough to be worth a task.
const KEYS: usize = 64;

/// Runs at most: sums of each are kept, and read again when all are done.
const RUNS: usize = 32;

/// A run's sums: of values, heads × value_dim, and of each head top and sum of weights.
#[derive(Clone)]
struct Sums {
    values: Vec<f32>,
    weights: Vec<(f32, f32)>,
}

impl OneQuery<'_> {
    /// Fills `out`, heads × value_dim.
    pub(crate) fn attend(&self, out: &mut [f32]) {
        let &AttentionShape { heads, kv_heads, value_dim, window, keys, .. } = self.shape;
        assert!(heads.is_multiple_of(kv_heads), "attention: {heads} heads share {kv_heads}");
        let seen = window.first_key(keys - 1)..keys;
        // How keys are cut depends on their number alone, so that results do, too.
        let length = KEYS.max(seen.len().div_ceil(RUNS));
        let none = Sums { values: vec![0.0; heads * value_dim], weights: vec![(0.0, 0.0); heads] };
        let mut runs = vec![none; seen.len().div_ceil(length)];
        let run = |(i, sums)| {
            let first = seen.start + i * length;
            (first..seen.end.min(first + length), sums)
        };
        let tasks: Vec<(Range<usize>, &mut Sums)> = runs.iter_mut().enumerate().map(run).collect();
        share(tasks, |(keys, sums)| self.run(keys, sums));
        for (head, out) in out.chunks_exact_mut(value_dim).enumerate() {
            let sink = self.sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[head]);
            self.isa.run(Join { runs: &runs, head, sink, out });
        }
    }

    /// All heads, with some keys.
    fn run(&self, keys: Range<usize>, sums: &mut Sums) {
        let &AttentionShape { heads, kv_heads, head_dim, value_dim, scale, softcap, .. } =
            self.shape;
        let (isa, group) = (self.isa, heads / kv_heads);
        let mut scores = vec![0.0; heads * keys.len()];
        let width = kv_heads * head_dim;
        let of_keys = Rows { all: &self.k[keys.start * width..keys.end * width], width, group };
        isa.run(Scores { isa, q: self.q, keys: of_keys, head_dim, scale, scores: &mut scores });
        for (head, row) in scores.chunks_exact_mut(keys.len()).enumerate() {
            let key_bias = self.key_bias.map(|(all, width)| &all[head * width..][keys.clone()]);
            let least = f32::NEG_INFINITY;
            sums.weights[head] = isa.run(Exponentials { row, softcap, key_bias, least });
        }
        let width = kv_heads * value_dim;
        let values = Rows { all: &self.v[keys.start * width..keys.end * width], width, group };
        isa.run(Sum { isa, weights: &scores, values, value_dim, out: &mut sums.values });
    }
}

/// Keys or values: a row begins every `width` numbers, and `group` heads read the same part of it.
#[derive(Clone, Copy)]
struct Rows<'a> {
    all: &'a [f32],
    width: usize,
    group: usize,
}

/// Rows that stay in a core's first cache while heads pass.
const BLOCK: usize = 8;

impl<'a> Rows<'a> {
    /// Some rows at a time: the index of the first, they, and those after them, which a kernel asks
    /// memory for while it is busy with these.
    fn blocks(self) -> impl Iterator<Item = (usize, &'a [f32], &'a [f32])> {
        let each = BLOCK * self.width;
        let count = self.all.len().div_ceil(each);
        (0..count).map(move |i| {
            let (rows, rest) = self.all[i * each..].split_at(each.min(self.all.len() - i * each));
            (i * BLOCK, rows, &rest[..each.min(rest.len())])
        })
    }
}

/// What heads of one group see of some rows.
#[derive(Clone, Copy)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "plain code reads the rows alone")
)]
pub(crate) struct Part<'a> {
    /// From their first channel on; the next row's is `width` numbers further.
    pub(crate) rows: &'a [f32],
    pub(crate) width: usize,
    /// Numbers to ask memory for meanwhile.
    pub(crate) next: &'a [f32],
}

impl<'a> Part<'a> {
    /// Of group `i` of `n`, whose channels are `channels`.
    fn of(rows: &'a [f32], next: &'a [f32], (i, n): (usize, usize), channels: usize) -> Self {
        let next = &next[next.len() * i / n..next.len() * (i + 1) / n];
        Self { rows: &rows[i * channels..], width: n * channels, next }
    }
}

/// `scores[h, i] = scale · q[h] · keys[i]`, heads × keys.
struct Scores<'a> {
    isa: Isa,
    q: &'a [f32],
    keys: Rows<'a>,
    head_dim: usize,
    scale: f32,
    scores: &'a mut [f32],
}

impl Kernel for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { isa, q, keys, head_dim, scale, scores } = self;
        let Rows { all, width, group } = keys;
        let count = all.len() / width;
        for (first, rows, next) in keys.blocks() {
            let heads = q.chunks(group * head_dim).zip(scores.chunks_mut(group * count));
            for (kv, (q, scores)) in heads.enumerate() {
                let keys = Part::of(rows, next, (kv, width / head_dim), head_dim);
                let scores = &mut scores[first..];
                #[cfg(target_arch = "x86_64")]
                if isa.has_avx512() && head_dim.is_multiple_of(one_query_avx512::LANES) {
                    // SAFETY: the level says that the CPU has the instructions.
                    unsafe { one_query_avx512::scores(q, keys, head_dim, scale, scores, count) };
                    continue;
                }
                let _ = isa;
                for (q, scores) in q.chunks_exact(head_dim).zip(scores.chunks_mut(count)) {
                    for (score, key) in scores.iter_mut().zip(keys.rows.chunks(width)) {
                        *score = scale * dot::<FMA, 32>(q, &key[..head_dim]);
                    }
                }
            }
        }
    }
}

/// `out[h] += Σ weights[h, i] · values[i]`, heads × value_dim.
struct Sum<'a> {
    isa: Isa,
    weights: &'a [f32],
    values: Rows<'a>,
    value_dim: usize,
    out: &'a mut [f32],
}

impl Kernel for Sum<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        // As many sums as stay in registers.
        const LANES: usize = 64;
        let Self { isa, weights, values, value_dim, out } = self;
        let Rows { all, width, group } = values;
        let count = all.len() / width;
        for (first, rows, next) in values.blocks() {
            let heads = weights.chunks(group * count).zip(out.chunks_mut(group * value_dim));
            for (kv, (weights, out)) in heads.enumerate() {
                let values = Part::of(rows, next, (kv, width / value_dim), value_dim);
                let weights = &weights[first..];
                #[cfg(target_arch = "x86_64")]
                if isa.has_avx512() && value_dim.is_multiple_of(one_query_avx512::LANES) {
                    // SAFETY: the level says that the CPU has the instructions.
                    unsafe { one_query_avx512::sum(weights, count, values, out, value_dim) };
                    continue;
                }
                let _ = isa;
                for (weights, out) in weights.chunks(count).zip(out.chunks_exact_mut(value_dim)) {
                    let rows = || weights.iter().zip(values.rows.chunks(width));
                    let (whole, rest) = out.as_chunks_mut::<LANES>();
                    for (c, out) in whole.iter_mut().enumerate() {
                        let mut sums = *out;
                        for (&weight, value) in rows() {
                            let value: &[f32; LANES] =
                                value[c * LANES..].first_chunk().expect("a part of a value");
                            for (sum, &value) in sums.iter_mut().zip(value) {
                                *sum = mul_add::<FMA>(weight, value, *sum);
                            }
                        }
                        *out = sums;
                    }
                    for (&weight, value) in rows() {
                        let value = &value[whole.len() * LANES..value_dim];
                        for (out, &value) in rest.iter_mut().zip(value) {
                            *out = mul_add::<FMA>(weight, value, *out);
                        }
                    }
                }
            }
        }
    }
}

/// The sum of all runs' values for one head, with weights that add up to one, a sink's included.
struct Join<'a> {
    runs: &'a [Sums],
    head: usize,
    sink: f32,
    out: &'a mut [f32],
}

impl Kernel for Join<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { runs, head, sink, out } = self;
        let top = runs.iter().fold(sink, |top, run| top.max(run.weights[head].0));
        let factor = |run: &Sums| exp::<FMA>(run.weights[head].0 - top);
        let sum: f32 = runs.iter().map(|run| factor(run) * run.weights[head].1).sum();
        let share = 1.0 / (sum + exp::<FMA>(sink - top));
        out.fill(0.0);
        for run in runs {
            let factor = share * factor(run);
            let values = &run.values[head * out.len()..][..out.len()];
            for (out, &value) in out.iter_mut().zip(values) {
                *out = mul_add::<FMA>(factor, value, *out);
            }
        }
    }
}
