//! Graphs, checkpoint readers and packed products against logits of the public implementations.
//!
//! `tests/fixtures/README.md` says how they were made. A graph is right when its float32 logits
//! agree within 2e-4 of the largest logit.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "what was tried and how close it came, with --nocapture")]

use std::path::{Path, PathBuf};

use gptq_core::Reference;
use gptq_models::{Checkpoint, Model};
use ndarray::{Array2, Axis};
use safetensors::SafeTensors;

fn fixtures(kind: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(kind);
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

/// Token ids and the logits they should give, sequence by sequence.
fn expected(dir: &Path) -> Vec<(Vec<u32>, Array2<f32>)> {
    let bytes = std::fs::read(dir.join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let ids = file.tensor("input_ids").unwrap();
    let ids: Array2<u32> = Array2::from_shape_vec(
        (ids.shape()[0], ids.shape()[1]),
        bytemuck::pod_collect_to_vec(ids.data()),
    )
    .unwrap();
    let logits = file.tensor("logits").unwrap();
    let shape = (logits.shape()[0], logits.shape()[1], logits.shape()[2]);
    let logits: Vec<f32> = bytemuck::pod_collect_to_vec(logits.data());
    let logits = ndarray::Array3::from_shape_vec(shape, logits).unwrap();
    let pairs = ids.outer_iter().zip(logits.axis_iter(Axis(0)));
    pairs.map(|(ids, logits)| (ids.to_vec(), logits.to_owned())).collect()
}

fn check(kind: &str) -> usize {
    let folders = fixtures(kind);
    for dir in &folders {
        let model = Model::load(&Checkpoint::open(dir).unwrap(), Reference).unwrap();
        for (ids, want) in expected(dir) {
            let got = model.logits(&ids).unwrap();
            let largest = want.fold(0f32, |m, v| m.max(v.abs()));
            let worst = (&got - &want).fold(0f32, |m, v| m.max(v.abs()));
            println!("{}: {:.1e} of the largest logit", dir.display(), worst / largest);
            assert!(worst <= 2e-4 * largest, "{}: {worst} of {largest}", dir.display());
        }
    }
    folders.len()
}

#[test]
fn llama_graphs() {
    assert_eq!(check("arch"), 4);
}

#[test]
fn gptqmodel_checkpoints() {
    assert_eq!(check("checkpoints"), 8);
}

#[test]
fn cached_generation_follows_the_uncached_pass() {
    use std::ops::ControlFlow;

    use gptq_models::{Sampling, generate};

    for dir in fixtures("arch").iter().chain(&fixtures("checkpoints")) {
        let model = Model::load(&Checkpoint::open(dir).unwrap(), Reference).unwrap();
        let prompt = &expected(dir)[0].0[..9];
        let go_on = |_| ControlFlow::Continue(());
        let cached = generate(&model, prompt, 24, Sampling::Greedy, go_on).unwrap();
        let mut ids = prompt.to_vec();
        for &id in &cached.ids {
            let logits = model.logits(&ids).unwrap();
            let last = logits.row(ids.len() - 1);
            let best = last.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
            assert_eq!(best as u32, id, "{} after {} tokens", dir.display(), ids.len());
            ids.push(id);
        }
        assert!(cached.ended || cached.ids.len() == 24);
    }
}

/// One number of the seed's sequence per token, and the definition.
#[test]
fn drawn_generation_follows_the_uncached_pass() {
    use std::ops::ControlFlow;

    use gptq_core::Draw;
    use gptq_models::{Sampling, generate};
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    let dir = &fixtures("arch")[0];
    let model = Model::load(&Checkpoint::open(dir).unwrap(), Reference).unwrap();
    let prompt = &expected(dir)[0].0[..9];
    let go_on = |_| ControlFlow::Continue(());
    let how = Draw { temperature: 1.5, top_k: 40, top_p: 0.95 };
    let Draw { temperature, top_k, top_p } = how;
    let random = Sampling::Random { temperature, top_k, top_p, seed: 11 };
    let mut rng = StdRng::seed_from_u64(11);
    let mut ids = prompt.to_vec();
    for id in generate(&model, prompt, 16, random, go_on).unwrap().ids {
        let logits = model.logits(&ids).unwrap();
        assert_eq!(id, how.choose(logits.row(ids.len() - 1), rng.random()), "{ids:?}");
        ids.push(id);
    }
    assert!(ids.len() > prompt.len());
    for (temperature, top_p) in [(0.0, 1.0), (f32::NAN, 1.0), (1.0, 0.0), (1.0, 1.1)] {
        let senseless = Sampling::Random { temperature, top_k, top_p, seed: 11 };
        let refused = generate(&model, prompt, 1, senseless, go_on).unwrap_err().to_string();
        assert!(refused.contains("need temperature above 0"), "{refused}");
    }
}
