//! [`Draw`]: one of many by their softmax, and only of the likely ones.

use std::cmp::Ordering;

use ndarray::ArrayView1;

/// How a place is drawn from a row of logits. What is random about it comes from outside, one number
/// per row, so that the same numbers give the same places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// Divides the logits; finite, above 0. Small values approach the largest logit.
    pub temperature: f32,
    /// Only the k largest; 0 for all.
    pub top_k: usize,
    /// Only the largest that together reach this share of the probability that `top_k` leaves; above
    /// 0, 1 for all.
    pub top_p: f32,
}

impl Draw {
    /// Whether the numbers are those that their docs ask for.
    pub fn is_valid(self) -> bool {
        self.temperature > 0.0
            && self.temperature.is_finite()
            && self.top_p > 0.0
            && self.top_p <= 1.0
    }

    /// The place that `uniform`, a number of [0, 1), draws.
    ///
    /// All of it is going along one order, that of falling logits with equal ones by place: so far
    /// that k are passed, so far that their mass reaches `top_p`, and so far that the mass exceeds
    /// `uniform` of what is left. A NaN counts as −∞; where there is nothing else, the place is 0.
    ///
    /// ```
    /// use gptq_core::Draw;
    ///
    /// let logits = ndarray::array![0.0, 2.0, 1.0];
    /// let all = Draw { temperature: 1.0, top_k: 0, top_p: 1.0 };
    /// // e² of e² + e¹ + e⁰ is 0.665, and the next one reaches 0.910.
    /// assert_eq!(all.choose(logits.view(), 0.66), 1);
    /// assert_eq!(all.choose(logits.view(), 0.67), 2);
    /// assert_eq!(Draw { top_k: 1, ..all }.choose(logits.view(), 0.67), 1);
    /// ```
    ///
    /// # Panics
    /// If the numbers are not valid.
    ///
    /// Costs an exponential and some comparisons per logit; nothing is sorted.
    pub fn choose(self, logits: ArrayView1<'_, f32>, uniform: f64) -> u32 {
        assert!(self.is_valid() && (0.0..1.0).contains(&uniform), "draw: {self:?} with {uniform}");
        // The sum makes one number of both zeros.
        let seen = |&x: &f32| if x.is_nan() { f32::NEG_INFINITY } else { x + 0.0 };
        let top = logits.iter().map(seen).fold(f32::NEG_INFINITY, f32::max);
        if top == f32::NEG_INFINITY {
            return 0;
        }
        let candidate = |(place, x): (u32, &f32)| {
            let logit = seen(x);
            let weight = match logit == top {
                true => 1.0,
                false => f64::from((logit - top) / self.temperature).exp(),
            };
            Candidate { place, logit, weight }
        };
        let mut all: Vec<Candidate> = (0..).zip(logits).map(candidate).collect();
        let mut kept = &mut all[..];
        if (1..kept.len()).contains(&self.top_k) {
            kept.select_nth_unstable_by(self.top_k, falling);
            kept = &mut kept[..self.top_k];
        }
        let mut mass = mass_of(kept);
        if self.top_p < 1.0 {
            let share = mass * f64::from(self.top_p);
            let last;
            (last, mass) = first_enough(kept, |mass| mass >= share);
            kept = &mut kept[..=last];
        }
        let drawn = uniform * mass;
        let (at, _) = first_enough(kept, |mass| mass > drawn);
        kept[at].place
    }
}

struct Candidate {
    place: u32,
    logit: f32,
    weight: f64,
}

/// The order, in which no two are equal.
fn falling(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.place.cmp(&b.place))
}

fn mass_of(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| candidate.weight).sum()
}

/// Where in the order the mass so far is enough, and that mass. Those up to there are at the front
/// then. Halves of halves: each step looks at half as many as the one before.
fn first_enough(mut order: &mut [Candidate], enough: impl Fn(f64) -> bool) -> (usize, f64) {
    let (mut at, mut before) = (0, 0.0);
    while order.len() > 1 {
        let half = order.len() / 2;
        order.select_nth_unstable_by(half, falling);
        let (first, second) = order.split_at_mut(half);
        let mass = before + mass_of(first);
        if enough(mass) {
            order = first;
        } else {
            (at, before, order) = (at + half, mass, second);
        }
    }
    (at, before + mass_of(order))
}

#[cfg(test)]
mod tests {
    use ndarray::{Array1, array};

    use super::*;

    const ALL: Draw = Draw { temperature: 1.0, top_k: 0, top_p: 1.0 };

    /// How often each place is drawn by the middles of `n` equal parts of [0, 1).
    fn counts(how: Draw, logits: &Array1<f32>, n: usize) -> Vec<usize> {
        let mut counts = vec![0; logits.len()];
        for i in 0..n {
            counts[how.choose(logits.view(), (i as f64 + 0.5) / n as f64) as usize] += 1;
        }
        counts
    }

    /// The same by going along the sorted order.
    fn sorted(how: Draw, logits: &Array1<f32>, uniform: f64) -> u32 {
        let mut order: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1));
        if how.top_k > 0 {
            order.truncate(how.top_k);
        }
        let top = order[0].1;
        let weight = |x: f32| f64::from((x - top) / how.temperature).exp();
        let all: f64 = order.iter().map(|&(_, x)| weight(x)).sum();
        let (mut kept, mut mass) = (0, 0.0);
        while kept < order.len() && (kept == 0 || mass < all * f64::from(how.top_p)) {
            mass += weight(order[kept].1);
            kept += 1;
        }
        let mut left = uniform * mass;
        let passed = |&(_, x): &(u32, f32)| {
            left -= weight(x);
            left < 0.0
        };
        order[order[..kept].iter().position(passed).unwrap_or(kept - 1)].0
    }

    #[test]
    fn nothing_depends_on_how_the_order_is_searched() {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / 16_777_216.0
        };
        for trial in 0..2000 {
            let n = 1 + (next() * 90.0) as usize;
            let logits: Array1<f32> = (0..n).map(|_| (next() * 12.0) as f32).collect();
            // Every second time with many that are equal.
            let logits = if trial % 2 == 0 { logits } else { logits.mapv(f32::round) };
            let how = Draw {
                temperature: 0.2 + 2.0 * next() as f32,
                top_k: (next() * 40.0) as usize,
                top_p: 1.0 - next() as f32 * 0.99,
            };
            let uniform = next();
            let want = sorted(how, &logits, uniform);
            assert_eq!(how.choose(logits.view(), uniform), want, "{how:?} {uniform} {logits}");
        }
    }

    /// An interval of length p has p · n points of a grid of n, but for one at its ends.
    #[test]
    fn each_place_has_its_share_of_a_grid() {
        let logits = array![0.3, -1.0, 2.0, 2.0, -0.0, 0.0, 1.5];
        for temperature in [0.4, 1.0, 3.0] {
            let how = Draw { temperature, ..ALL };
            let weights = logits.mapv(|x| f64::from(x / temperature).exp());
            let total = weights.sum();
            for (count, weight) in counts(how, &logits, 5000).into_iter().zip(weights) {
                let want = 5000.0 * weight / total;
                assert!((count as f64 - want).abs() < 1.0 + 1e-6, "{count}, not {want}");
            }
        }
    }

    #[test]
    fn restrictions_leave_only_the_likely() {
        let logits = array![0.0, 3.0, 1.0, 2.9];
        let drawn = |how: Draw| -> Vec<usize> {
            let counts = counts(how, &logits, 1000);
            (0..4).filter(|&at| counts[at] > 0).collect()
        };
        assert_eq!(drawn(ALL), [0, 1, 2, 3]);
        assert_eq!(drawn(Draw { top_k: 1, ..ALL }), [1]);
        assert_eq!(drawn(Draw { top_k: 2, ..ALL }), [1, 3]);
        assert_eq!(drawn(Draw { top_k: 9, ..ALL }), [0, 1, 2, 3]);
        // Of 0.48, 0.43, 0.06 and 0.02.
        assert_eq!(drawn(Draw { top_p: 0.4, ..ALL }), [1]);
        assert_eq!(drawn(Draw { top_p: 0.8, ..ALL }), [1, 3]);
        assert_eq!(drawn(Draw { top_p: f32::MIN_POSITIVE, ..ALL }), [1]);
        // The share is of what the first restriction leaves: 0.53 and 0.47.
        assert_eq!(drawn(Draw { top_k: 2, top_p: 0.5, ..ALL }), [1]);
        assert_eq!(drawn(Draw { temperature: 1e-3, ..ALL }), [1]);
        assert_eq!(drawn(Draw { temperature: f32::MIN_POSITIVE, ..ALL }), [1]);
    }

    #[test]
    fn equal_logits_are_in_the_order_of_their_places() {
        let logits = array![0.0, -0.0, 0.0, -0.0];
        assert_eq!(counts(ALL, &logits, 8), [2, 2, 2, 2]);
        assert_eq!(counts(Draw { top_k: 2, ..ALL }, &logits, 8), [4, 4, 0, 0]);
        assert_eq!(counts(Draw { top_p: 0.75, ..ALL }, &logits, 9), [3, 3, 3, 0]);
        assert_eq!(ALL.choose(logits.view(), 0.25), 1);
    }

    #[test]
    fn what_is_no_number_is_never_drawn() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        assert_eq!(counts(ALL, &array![nan, 1.0, -nan, 1.0, -inf], 8), [0, 4, 0, 4, 0]);
        assert_eq!(counts(ALL, &array![1.0, inf, nan, inf], 8), [0, 4, 0, 4]);
        assert_eq!(counts(ALL, &array![-inf, nan, -inf], 8), [8, 0, 0]);
        assert_eq!(ALL.choose(array![].view(), 0.5), 0);
    }
}
