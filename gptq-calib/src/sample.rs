//! Random windows, drawn as the paper's authors' code draws them.
//!
//! That code seeds Python's `random` module and calls `random.randint` once per window, so the
//! same text, tokenizer, seed and lengths must give the same windows here, id for id.

use rand_mt::Mt;

use crate::Error;

/// How many windows to draw, how long, and from which seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleSpec {
    /// Windows to draw.
    pub n_samples: usize,
    /// Tokens per window.
    pub seq_len: usize,
    /// Seed, as `random.seed` takes it.
    pub seed: u64,
}

impl Default for SampleSpec {
    /// The paper's setting: 128 windows of 2048 tokens, seed 0.
    fn default() -> Self {
        Self { n_samples: 128, seq_len: 2048, seed: 0 }
    }
}

/// Python's `random.Random(seed)`: the Mersenne Twister MT19937, seeded by array, and CPython's
/// way from its 32-bit words to a uniform integer.
struct PythonRandom {
    twister: Mt,
}

impl PythonRandom {
    /// The stream of `random.seed(seed)`.
    fn new(seed: u64) -> Self {
        // CPython's key is the seed's 32-bit words, lowest first, without leading zero words.
        let words = [seed as u32, (seed >> 32) as u32];
        let used = if words[1] == 0 { 1 } else { 2 };
        Self { twister: Mt::new_with_key(words.into_iter().take(used)) }
    }

    /// `random.getrandbits(bits)`, for at most 64 bits.
    fn getrandbits(&mut self, bits: u32) -> u64 {
        let mut value = 0;
        // Words join lowest first; the last one gives its top bits.
        for shift in (0..bits).step_by(32) {
            let unused = 32_u32.saturating_sub(bits - shift);
            value |= u64::from(self.twister.next_u32() >> unused) << shift;
        }
        value
    }

    /// A uniform integer of `0..=last`: `random.randint(0, last)`.
    fn randint(&mut self, last: u64) -> u64 {
        // The bit length of `last + 1`, as in CPython: one more than `last` needs if that is all
        // ones. Rejection keeps the draw uniform; on average fewer than two are needed.
        let bits = u64::BITS - last.saturating_add(1).leading_zeros();
        loop {
            let value = self.getrandbits(bits);
            if value <= last {
                return value;
            }
        }
    }
}

/// Where windows begin in a stream of `len` ids: one `random.randint(0, len - seq_len - 1)` each.
/// Windows may overlap, and a window never holds the very last id (the reference's range ends one
/// early).
///
/// ```
/// use gptq_calib::{SampleSpec, window_starts};
///
/// let spec = SampleSpec { n_samples: 3, ..SampleSpec::default() };
/// assert_eq!(window_starts(341_469, &spec)?, [201_979, 220_500, 21_225]);
/// # Ok::<(), gptq_calib::Error>(())
/// ```
///
/// # Errors
/// [`Error::TooShort`] unless `len > seq_len`, [`Error::Setting`] if `n_samples` or `seq_len` is 0.
pub fn window_starts(len: usize, spec: &SampleSpec) -> Result<Vec<usize>, Error> {
    for (name, value) in [("n_samples", spec.n_samples), ("seq_len", spec.seq_len)] {
        if value == 0 {
            return Err(Error::Setting { name, value, rule: "at least 1".to_owned() });
        }
    }
    if len <= spec.seq_len {
        return Err(Error::TooShort {
            tokens: len,
            seq_len: spec.seq_len,
            needed: spec.seq_len.saturating_add(1),
        });
    }
    let last = (len - spec.seq_len - 1) as u64;
    let mut random = PythonRandom::new(spec.seed);
    Ok((0..spec.n_samples).map(|_| random.randint(last) as usize).collect())
}

/// Draws `n_samples` windows of `seq_len` ids out of `ids`, at [`window_starts`].
///
/// # Errors
/// Those of [`window_starts`].
///
/// Costs a copy of `n_samples · seq_len` ids.
pub fn sample_windows(
    ids: &[u32],
    n_samples: usize,
    seq_len: usize,
    seed: u64,
) -> Result<Vec<Vec<u32>>, Error> {
    let starts = window_starts(ids.len(), &SampleSpec { n_samples, seq_len, seed })?;
    Ok(starts.into_iter().map(|start| ids[start..start + seq_len].to_vec()).collect())
}

/// Positions of the stream that lie in at least one window: less than `starts.len() · seq_len`
/// where windows overlap.
pub(crate) fn covered(mut starts: Vec<usize>, seq_len: usize) -> usize {
    starts.sort_unstable();
    let mut end = 0;
    let mut total = 0;
    for start in starts {
        total += start + seq_len - start.max(end);
        end = start + seq_len;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_stream() {
        let mut random = PythonRandom::new(0);
        let words: Vec<u64> = (0..4).map(|_| random.getrandbits(32)).collect();
        assert_eq!(words, [3_626_764_237, 1_654_615_998, 3_255_389_356, 3_823_568_514]);
    }

    #[test]
    fn wide_draws_join_words_lowest_first() {
        let mut random = PythonRandom::new(0);
        assert_eq!(random.getrandbits(64), 3_626_764_237 | (1_654_615_998 << 32));
        let mut random = PythonRandom::new(0);
        assert_eq!(random.getrandbits(40), 3_626_764_237 | ((1_654_615_998 >> 24) << 32));
        assert_eq!(random.getrandbits(0), 0);
    }

    #[test]
    fn coverage_counts_overlap_once() {
        assert_eq!(covered(vec![0, 10, 20], 10), 30);
        assert_eq!(covered(vec![5, 0, 5], 10), 15);
        assert_eq!(covered(vec![7], 4), 4);
    }
}
