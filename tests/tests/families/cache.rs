//! Generation with a cache of keys and values.

use gptq_core::Draw;
use gptq_kernels::CpuBackend;
use gptq_pack::PackedBackend;
use ndarray::Array2;

use crate::{
    golden::{Golden, argmax},
    gpu::{gpu, own_gpu},
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

/// Families whose steps are not all alike: which experts a token goes to is known on the way.
const EXPERTS: [&str; 9] = [
    "deepseek_v2_group",
    "deepseek_v3",
    "deepseek_v3_yarn_eps",
    "gpt_oss",
    "granitemoe",
    "llama4_text",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
];

/// From the third token on, a step is what was recorded before, and all that comes back is a token.
#[test]
fn a_step_on_a_gpu_is_a_replay() {
    let how = Draw { temperature: 0.8, top_k: 0, top_p: 0.95 };
    for name in crate::golden::names().iter().filter(|name| !EXPERTS.contains(&name.as_str())) {
        let golden = Golden::of(name);
        let gpu = own_gpu();
        let model = golden.load(gpu.clone());
        let mut cache = model.cache(golden.ids.len()).unwrap();
        model.next_logits(&golden.ids[..12], &mut cache).unwrap();
        for (step, &id) in golden.ids[12..16].iter().enumerate() {
            let before = gpu.traffic();
            model.draw_token(&[id], &mut cache, how, 0.3).unwrap();
            let after = gpu.traffic();
            assert_eq!(after.bytes_read - before.bytes_read, 4, "{name}, token {step}");
            let runs = (after.runs - before.runs, after.replays - before.replays);
            assert!(step < 2 || runs == (1, 1), "{name}, token {step}: {runs:?}");
        }
    }
}
