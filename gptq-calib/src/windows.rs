//! Windows for measuring perplexity: two protocols, whose numbers are not comparable.

use crate::Error;

/// The paper's protocol: `floor(ids.len() / seq_len)` windows side by side, each judged on its
/// own; the tokens left over at the end are not used.
///
/// ```
/// let ids = [1, 2, 3, 4, 5];
/// assert_eq!(gptq_calib::disjoint_windows(&ids, 2)?, [[1, 2], [3, 4]]);
/// # Ok::<(), gptq_calib::Error>(())
/// ```
///
/// # Errors
/// [`Error::TooShort`] if there is not one whole window, [`Error::Setting`] if `seq_len` is below
/// 2: a single token predicts nothing.
pub fn disjoint_windows(ids: &[u32], seq_len: usize) -> Result<Vec<&[u32]>, Error> {
    check_length("seq_len", seq_len)?;
    if ids.len() < seq_len {
        return Err(Error::TooShort { tokens: ids.len(), seq_len, needed: seq_len });
    }
    Ok(ids.chunks_exact(seq_len).collect())
}

/// One step of the strided protocol: ids `begin..end` go through the model, and the last
/// `targets` of them are scored; those before are context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StridedWindow {
    /// First position of the window.
    pub begin: usize,
    /// One past its last position.
    pub end: usize,
    /// Positions scored here and nowhere else. In the first window the very first token is
    /// among them, which nothing precedes: one fewer has a prediction.
    pub targets: usize,
}

/// The strided protocol of the Transformers documentation: windows of `max_len` tokens that start
/// every `stride` tokens, each scoring only what the ones before did not; it stops with the first
/// window that reaches the end. It gives most tokens more context than [`disjoint_windows`], hence
/// a lower perplexity.
///
/// ```
/// let windows = gptq_calib::strided_windows(10, 6, 3)?;
/// let bounds: Vec<_> = windows.iter().map(|w| (w.begin, w.end, w.targets)).collect();
/// assert_eq!(bounds, [(0, 6, 6), (3, 9, 3), (6, 10, 1)]);
/// # Ok::<(), gptq_calib::Error>(())
/// ```
///
/// # Errors
/// [`Error::TooShort`] if `len` is below 2 tokens, [`Error::Setting`] if `max_len` is below 2 or
/// `stride` is not within `1..=max_len` (a longer stride would skip tokens).
pub fn strided_windows(
    len: usize,
    max_len: usize,
    stride: usize,
) -> Result<Vec<StridedWindow>, Error> {
    check_length("max_len", max_len)?;
    if stride == 0 || stride > max_len {
        let rule = format!("between 1 and the window length {max_len}");
        return Err(Error::Setting { name: "stride", value: stride, rule });
    }
    if len < 2 {
        return Err(Error::TooShort { tokens: len, seq_len: max_len, needed: 2 });
    }
    let mut windows = Vec::new();
    let mut scored = 0;
    for begin in (0..len).step_by(stride) {
        let end = begin.saturating_add(max_len).min(len);
        windows.push(StridedWindow { begin, end, targets: end - scored });
        scored = end;
        if end == len {
            break;
        }
    }
    Ok(windows)
}

fn check_length(name: &'static str, value: usize) -> Result<(), Error> {
    if value < 2 {
        return Err(Error::Setting { name, value, rule: "at least 2".to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn whole_windows_only() {
        let ids: Vec<u32> = (0..5000).collect();
        let windows = disjoint_windows(&ids, 2048).unwrap();
        assert_eq!(windows.len(), 2);
        assert_eq!(windows[1][0], 2048);
        assert_eq!(ids.len() - windows.concat().len(), 904);
    }

    #[test]
    fn strided_bounds() {
        let windows = strided_windows(5000, 2048, 512).unwrap();
        let bounds: Vec<_> = windows.iter().map(|w| (w.begin, w.end, w.targets)).collect();
        let expected = [
            (0, 2048, 2048),
            (512, 2560, 512),
            (1024, 3072, 512),
            (1536, 3584, 512),
            (2048, 4096, 512),
            (2560, 4608, 512),
            (3072, 5000, 392),
        ];
        assert_eq!(bounds, expected);
    }

    #[test]
    fn refusals_carry_their_numbers() {
        let short = disjoint_windows(&[1; 9], 10).unwrap_err().to_string();
        assert!(short.contains("9 tokens") && short.contains("10"), "{short}");
        assert!(matches!(disjoint_windows(&[], 0), Err(Error::Setting { name: "seq_len", .. })));
        for stride in [0, 2049] {
            let error = strided_windows(5000, 2048, stride).unwrap_err().to_string();
            assert!(error.contains(&stride.to_string()) && error.contains("2048"), "{error}");
        }
        assert!(matches!(strided_windows(1, 8, 4), Err(Error::TooShort { tokens: 1, .. })));
    }

    proptest! {
        #[test]
        fn every_token_is_scored_once(len in 2_usize..500, max_len in 2_usize..60, cut in 0_usize..60) {
            let stride = 1 + cut % max_len;
            let windows = strided_windows(len, max_len, stride).unwrap();
            let mut next = 0;
            for w in &windows {
                prop_assert!(w.begin <= w.end - w.targets && w.end - w.begin <= max_len);
                prop_assert_eq!(w.end - w.targets, next);
                next = w.end;
            }
            prop_assert_eq!(next, len);
        }
    }
}
