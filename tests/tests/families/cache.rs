//! Generation with a cache of keys and values.

use gptq_kernels::CpuBackend;
use gptq_pack::PackedBackend;
use ndarray::Array2;

use crate::{
    golden::{Golden, argmax},
    gpu::gpu,
};

/// Tokens generated. Sliding windows, of 9 tokens at most, are passed within the prompt.
const NEW_TOKENS: usize = 12;

/// The same with a GPU's cache: its second single token is recorded, the third one replays.
const NEW_TOKENS_ON_A_GPU: usize = 4;

pub(crate) fn changes_nothing(golden: &Golden) {
    changes_nothing_on(golden, CpuBackend::new(), NEW_TOKENS);
    changes_nothing_on(golden, gpu().exact(), NEW_TOKENS_ON_A_GPU);
}

/// Greedy generation after a prompt read in two uneven pieces goes the way of one that reads the
/// whole sequence anew for every token.
fn changes_nothing_on(golden: &Golden, backend: impl PackedBackend, new_tokens: usize) {
    let model = golden.load(backend);
    let plain = golden.load(CpuBackend::new());
    let mut ids = golden.ids.clone();
    let mut cache = model.cache(ids.len() + new_tokens).unwrap();
    model.next_logits(&ids[..7], &mut cache).unwrap();
    let mut new = ids[7..].to_vec();
    for step in 0..new_tokens {
        let cached = model.next_logits(&new, &mut cache).unwrap();
        let whole = plain.logits(&ids).unwrap().slice(ndarray::s![-1.., ..]).to_owned();
        let next = argmax(cached.iter().copied());
        assert_eq!(next, argmax(whole.iter().copied()), "token {step}");
        let cached = Array2::from_shape_vec(whole.dim(), cached).unwrap();
        let gap = golden.gap(&cached, &whole);
        assert!(gap < 1e-4, "token {step}: {gap} of the largest logit");
        ids.push(next as u32);
        new = vec![next as u32];
    }
}
