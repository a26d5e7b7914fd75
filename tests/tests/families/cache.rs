//! Generation with a cache of keys and values.

use gptq_kernels::CpuBackend;
use ndarray::Array2;

use crate::golden::{Golden, argmax};

/// Tokens generated. Sliding windows, of 9 tokens at most, are passed within the prompt.
const NEW_TOKENS: usize = 12;

/// Greedy generation after a prompt read in two uneven pieces goes the way of one that reads the
/// whole sequence anew for every token.
pub(crate) fn changes_nothing(golden: &Golden) {
    let model = golden.load(CpuBackend::new());
    let mut ids = golden.ids.clone();
    let mut cache = model.cache(ids.len() + NEW_TOKENS).unwrap();
    model.next_logits(&ids[..7], &mut cache).unwrap();
    let mut new = ids[7..].to_vec();
    for step in 0..NEW_TOKENS {
        let cached = model.next_logits(&new, &mut cache).unwrap();
        let whole = model.logits(&ids).unwrap().slice(ndarray::s![-1.., ..]).to_owned();
        let next = argmax(cached.iter().copied());
        assert_eq!(next, argmax(whole.iter().copied()), "token {step}");
        let cached = Array2::from_shape_vec(whole.dim(), cached).unwrap();
        let gap = golden.gap(&cached, &whole);
        assert!(gap < 1e-4, "token {step}: {gap} of the largest logit");
        ids.push(next as u32);
        new = vec![next as u32];
    }
}
