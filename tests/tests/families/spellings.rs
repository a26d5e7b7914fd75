//! The same model under other names: files of the hub leave prefixes out, wrappers put some before,
//! newer programs keep all experts in one tensor.

use gptq_kernels::CpuBackend;
use gptq_models::{Fate, Model, QuantizeOptions, quantize};
use gptq_tests::{Stored, random_tokens};
use safetensors::Dtype;
use serde_json::json;

use crate::golden::{Golden, open};

/// Logits do not change by a bit.
fn assert_same(golden: &Golden, changed: &Golden) {
    let logits = |golden: &Golden| golden.load(CpuBackend::new()).logits(&golden.ids).unwrap();
    assert_eq!(logits(golden), logits(changed));
}

fn renamed(name: &str, rename: impl Fn(&str) -> String) -> Golden {
    let mut golden = Golden::of(name);
    let tensors = std::mem::take(&mut golden.files.tensors);
    golden.files.tensors = tensors.into_iter().map(|(key, t)| (rename(&key), t)).collect();
    golden
}

/// Below a wrapper of images and text, with a tower of its own.
fn wrapped(name: &str, wrapper: &str, rename: impl Fn(&str) -> String) -> Golden {
    let mut golden = renamed(name, rename);
    let text = std::mem::take(&mut golden.files.config);
    golden.files.config = json!({"model_type": wrapper, "text_config": text});
    let bytes: Vec<u8> = (0..64 * 64 * 4).map(|i| (i % 61) as u8).collect();
    let tower = Stored { dtype: Dtype::F32, shape: vec![64, 64], bytes };
    let tower_name = "vision_tower.encoder.layers.0.self_attn.q_proj.weight";
    golden.files.tensors.insert(tower_name.to_owned(), tower);
    golden
}

#[test]
fn prefixes_may_be_missing() {
    for (name, prefix) in [
        ("bloom", "transformer."),
        ("gpt2", "transformer."),
        ("falcon_7b_like", "transformer."),
        ("opt_125m_like", "model."),
        ("llama", "model."),
    ] {
        let strip = |key: &str| key.strip_prefix(prefix).unwrap_or(key).to_owned();
        assert_same(&Golden::of(name), &renamed(name, strip));
    }
}

#[test]
fn text_models_are_found_below_wrappers() {
    let inside = |key: &str| format!("language_model.{key}");
    let runtime = |key: &str| match key.strip_prefix("model.") {
        Some(rest) => format!("model.language_model.{rest}"),
        None => key.to_owned(),
    };
    for (name, wrapper) in [("llama", "llava"), ("mistral", "mistral3"), ("gemma3_text", "gemma3")]
    {
        assert_same(&Golden::of(name), &wrapped(name, wrapper, inside));
        assert_same(&Golden::of(name), &wrapped(name, wrapper, runtime));
    }
    // Flat keys of an older wrapper.
    let mut flat = Golden::of("qwen2");
    flat.files.config["model_type"] = json!("qwen2_vl");
    assert_same(&Golden::of("qwen2"), &flat);
}

#[test]
fn what_is_not_text_is_copied_byte_for_byte() {
    let golden = wrapped("llama", "llava", |key| format!("language_model.{key}"));
    let (source, parent) = (golden.folder(), tempfile::tempdir().unwrap());
    let (out, options) = (parent.path().join("out"), QuantizeOptions::default());
    let samples = random_tokens(3, 2, 16);
    let checkpoint = open(source.path());
    let report =
        quantize(&checkpoint, &samples, &CpuBackend::new(), &options, &out, &mut ()).unwrap();
    assert!(report.layers.iter().all(|l| l.name.starts_with("language_model.model.layers.")));
    assert_eq!(report.coverage.quantized, report.coverage.expected);
    let tower = "vision_tower.encoder.layers.0.self_attn.q_proj.weight";
    let entry = report.ledger.tensors.iter().find(|entry| entry.name == tower).unwrap();
    assert_eq!(entry.fate, Fate::Copied);
    let result = open(&out);
    assert_eq!(result.tensor(tower).unwrap().bytes, checkpoint.tensor(tower).unwrap().bytes);
    Model::load(&result, CpuBackend::new()).unwrap().logits(&golden.ids).unwrap();
}

#[test]
fn experts_may_share_tensors() {
    let plain = Golden::of("qwen3_moe");
    let mut fused = Golden::of("qwen3_moe");
    let experts = 1 + last_number(&fused, "model.layers.1.mlp.experts.");
    for layer in 0..2 {
        let block = format!("model.layers.{layer}.mlp.experts");
        let (mut both, mut down) = (Vec::new(), Vec::new());
        let mut shapes = [Vec::new(), Vec::new()];
        for e in 0..experts {
            let mut take = |part: &str| {
                fused.files.tensors.remove(&format!("{block}.{e}.{part}.weight")).unwrap()
            };
            let (gate, up, out) = (take("gate_proj"), take("up_proj"), take("down_proj"));
            shapes = [vec![experts, 2 * gate.shape[0], gate.shape[1]], {
                vec![experts, out.shape[0], out.shape[1]]
            }];
            both.extend(gate.bytes.into_iter().chain(up.bytes));
            down.extend(out.bytes);
        }
        let [both_shape, down_shape] = shapes;
        for (name, shape, bytes) in
            [("gate_up_proj", both_shape, both), ("down_proj", down_shape, down)]
        {
            let stored = Stored { dtype: Dtype::F32, shape, bytes };
            fused.files.tensors.insert(format!("{block}.{name}"), stored);
        }
    }
    assert_same(&plain, &fused);
}

fn last_number(golden: &Golden, prefix: &str) -> usize {
    let numbers = golden
        .files
        .tensors
        .keys()
        .filter_map(|key| key.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok());
    numbers.max().unwrap()
}
