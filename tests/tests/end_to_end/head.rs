//! The output head as one more linear.

use gptq_core::{Bits, Reference};
use gptq_models::{Checkpoint, Evaluation, Fate, Method, Model, QuantizeOptions, Window, evaluate};
use gptq_tests::{
    ModelFiles, assert_says, fixture, largest_difference, random_tokens, read_json, read_tensors,
};
use safetensors::Dtype;
use serde_json::json;

use crate::{Run, calibration, load, options, refused, rules, source};

const BLOCKS: u64 = 2 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 96);

fn with_head(bits: Bits) -> QuantizeOptions {
    QuantizeOptions { lm_head: true, ..options(bits) }
}

fn distance(run: &Run) -> Evaluation {
    let ids = random_tokens(3, 16, 64).concat();
    let windows: Vec<Window> =
        (0..16).map(|w| Window { range: w * 64..(w + 1) * 64, targets: 63 }).collect();
    evaluate(&run.load(), Some(&load(&fixture("arch/llama"))), &ids, &windows, |_| ()).unwrap()
}

#[test]
fn the_head_gets_eight_bits_and_the_file_says_so() {
    for method in [Method::Gptq, Method::Rtn] {
        let run = Run::with(&QuantizeOptions { method, ..with_head(Bits::B4) });
        let tensors = read_tensors(&run.file("model.safetensors"));
        assert!(!tensors.contains_key("lm_head.weight"));
        for (part, dtype, shape) in [
            ("qweight", Dtype::I32, vec![64 * 8 / 32, 320]),
            ("qzeros", Dtype::I32, vec![2, 320 * 8 / 32]),
            ("scales", Dtype::F16, vec![2, 320]),
            ("g_idx", Dtype::I32, vec![64]),
        ] {
            let tensor = &tensors[&format!("lm_head.{part}")];
            assert_eq!((tensor.dtype, &tensor.shape), (dtype, &shape), "{part}");
        }
        let config = read_json(&run.file("config.json"));
        assert_eq!(config["quantization_config"]["lm_head"], true);
        assert_eq!(
            config["quantization_config"]["dynamic"],
            json!({"lm_head":
                {"bits": 8, "group_size": 32, "sym": true, "desc_act": false, "mse": 2.4}})
        );
        let report = &run.report;
        assert_eq!(report.coverage.expected, BLOCKS + 320 * 64);
        assert_eq!(report.coverage.quantized, BLOCKS + 320 * 64);
        let head = report.layers.last().unwrap();
        assert_eq!((head.name.as_str(), head.bits, head.group_size), ("lm_head", 8, 32));
        let entry = report.ledger.tensors.iter().find(|e| e.name == "lm_head.weight").unwrap();
        assert_eq!(entry.fate, Fate::Quantized);
        if method == Method::Gptq {
            assert_eq!(head.tokens, 12 * 48);
            assert!(head.loss.unwrap() < head.rtn_loss.unwrap());
        }

        let plain = Model::load(&Checkpoint::open(&run.dir).unwrap(), Reference).unwrap();
        let ids = &random_tokens(6, 1, 30)[0];
        let gap = largest_difference(&run.load().logits(ids).unwrap(), &plain.logits(ids).unwrap());
        assert!(gap < 1e-4, "{method:?}: {gap}");
    }
}

#[test]
fn eight_bits_in_the_head_cost_next_to_nothing() {
    let mut options = with_head(Bits::B4);
    options.dynamic = rules(&json!({"-:model": {}}));
    let run = Run::with(&options);
    assert_eq!(run.report.layers.len(), 1);
    assert_eq!(run.report.coverage.skipped, BLOCKS);
    let result = distance(&run);
    assert!(result.kl.unwrap() < 1e-4, "{result:?}");
}

#[test]
fn a_rule_that_names_the_head_decides() {
    let kl = |method: Method| {
        let mut options = QuantizeOptions { method, ..with_head(Bits::B8) };
        options.dynamic = rules(&json!({"-:model": {}, "lm_head": {"bits": 2}}));
        let run = Run::with(&options);
        assert_eq!(run.report.layers.last().unwrap().bits, 2);
        let config = read_json(&run.file("quantize_config.json"));
        assert_eq!(config["dynamic"], json!({"-:model": {}, "lm_head": {"bits": 2}}));
        distance(&run).kl.unwrap()
    };
    let (solved, rounded) = (kl(Method::Gptq), kl(Method::Rtn));
    assert!(solved < rounded, "{solved} against {rounded}");
}

#[test]
fn a_head_that_is_the_embedding_is_refused() {
    let mut tied = ModelFiles::of("arch/llama");
    tied.config["tie_word_embeddings"] = json!(true);
    let mut bare = ModelFiles::of("arch/llama");
    bare.tensors.remove("lm_head.weight");
    for (model, words) in [
        (tied, ["ties it to the embedding", "config.json"]),
        (bare, ["holds no lm_head.weight", "embedding serves"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        model.write(dir.path());
        let source = Checkpoint::open(dir.path()).unwrap();
        assert_says(&refused(&source, &calibration(), &with_head(Bits::B4)), &words);
    }
}

#[test]
fn a_rule_that_skips_the_head_contradicts() {
    let mut options = with_head(Bits::B4);
    options.dynamic = rules(&json!({"-:lm_head": {}}));
    let said = refused(&source(), &calibration(), &options);
    assert_says(&said, &["lm_head", "dynamic rule skips it"]);
}
