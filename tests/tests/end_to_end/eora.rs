//! Adapters that make up for quantization, computed along.

use std::path::{Path, PathBuf};

use gptq_core::Bits;
use gptq_kernels::CpuBackend;
use gptq_models::{
    Adapter, EoraOptions, FallbackPolicy, FallbackThreshold, Method, Model, QuantizeOptions,
    Report, Window, evaluate, quantize,
};
use gptq_tests::{assert_says, file_names, fixture, random_tokens, read_json, read_tensors};
use rayon::ThreadPoolBuilder;
use safetensors::Dtype;
use serde_json::json;

use crate::{Run, calibration, load, options, refused, rules, source};

fn with_rank(rank: usize) -> QuantizeOptions {
    let eora = Some(EoraOptions { rank, out: None });
    QuantizeOptions { eora, ..options(Bits::B2) }
}

fn adapted(model: &Path, adapter: &Path) -> Model<CpuBackend> {
    load(model).with_adapter(&Adapter::open(adapter).unwrap()).unwrap()
}

fn kl(model: &Model<CpuBackend>) -> f64 {
    let ids = random_tokens(3, 16, 64).concat();
    let windows: Vec<Window> =
        (0..16).map(|w| Window { range: w * 64..(w + 1) * 64, targets: 63 }).collect();
    let dense = load(&fixture("arch/llama"));
    evaluate(model, Some(&dense), &ids, &windows, |_| ()).unwrap().kl.unwrap()
}

#[test]
fn the_higher_the_rank_the_closer_to_the_dense_model() {
    let mut before = f64::INFINITY;
    for rank in [4, 16, 32] {
        let run = Run::with(&with_rank(rank));
        if before.is_infinite() {
            before = kl(&run.load());
        }
        let after = kl(&adapted(&run.dir, &run.file("eora")));
        assert!(after < before, "rank {rank}: {after}, before {before}");
        before = after;
    }
}

#[test]
fn at_full_rank_the_error_is_gone() {
    // Ranks end at the smaller side of a linear, 32 to 64 here.
    let run = Run::with(&with_rank(64));
    let config = read_json(&run.file("eora/adapter_config.json"));
    assert_eq!(config["r"], 64);
    let small = json!({"model.layers.0.self_attn.k_proj": 32, "model.layers.0.self_attn.v_proj": 32,
        "model.layers.1.self_attn.k_proj": 32, "model.layers.1.self_attn.v_proj": 32});
    assert_eq!(config["rank_pattern"], small);
    assert_eq!(config["alpha_pattern"], small);
    let left = kl(&adapted(&run.dir, &run.file("eora")));
    assert!(left < 1e-5, "{left} of {}", kl(&run.load()));
}

#[test]
fn the_checkpoint_is_the_same_with_and_without() {
    let (plain, with) = (Run::with(&options(Bits::B2)), Run::with(&with_rank(8)));
    for name in ["model.safetensors", "config.json", "quantize_config.json"] {
        let bytes = |run: &Run| std::fs::read(run.file(name)).unwrap();
        assert!(bytes(&plain) == bytes(&with), "{name}");
    }
    assert_eq!(plain.report.adapter, None);
    let report = with.report.adapter.as_ref().unwrap();
    assert_eq!((report.rank, report.modules), (8, 14));
    let bytes: usize = read_tensors(&with.file("eora/adapter_model.safetensors"))
        .values()
        .map(|t| t.bytes.len())
        .sum();
    assert_eq!(report.bytes, bytes as u64);
}

#[test]
fn the_folder_is_what_peft_expects() {
    let run = Run::with(&with_rank(8));
    let dir = run.file("eora");
    assert_eq!(file_names(&dir), ["adapter_config.json", "adapter_model.safetensors"]);
    let config = read_json(&dir.join("adapter_config.json"));
    for (key, value) in [
        ("peft_type", json!("LORA")),
        ("task_type", json!("CAUSAL_LM")),
        ("r", json!(8)),
        ("lora_alpha", json!(8)),
        ("bias", json!("none")),
        ("rank_pattern", json!({})),
        ("base_model_name_or_path", json!(run.dir.to_str().unwrap())),
        (
            "target_modules",
            json!(["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]),
        ),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
    let tensors = read_tensors(&dir.join("adapter_model.safetensors"));
    assert_eq!(tensors.len(), 2 * 14);
    let down = |side: &str| {
        let name = format!("base_model.model.model.layers.1.mlp.down_proj.lora_{side}.weight");
        (tensors[&name].dtype, tensors[&name].shape.clone())
    };
    assert_eq!(down("A"), (Dtype::F32, vec![8, 96]));
    assert_eq!(down("B"), (Dtype::F32, vec![64, 8]));
}

#[test]
fn threads_do_not_change_a_byte() {
    let bytes = |threads: usize| {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let run = Run::with(&with_rank(8));
            std::fs::read(run.file("eora/adapter_model.safetensors")).unwrap()
        })
    };
    assert!(bytes(1) == bytes(3));
}

fn apart(out: PathBuf, dir: &Path) -> Result<Report, String> {
    let options = QuantizeOptions {
        eora: Some(EoraOptions { rank: 4, out: Some(out) }),
        ..options(Bits::B4)
    };
    let ran = quantize(&source(), &calibration(), &CpuBackend::new(), &options, dir, &mut ());
    ran.map_err(|error| error.to_string())
}

#[test]
fn a_folder_of_its_own_is_whole_or_not_there() {
    let parent = tempfile::tempdir().unwrap();
    let (out, adapter) = (parent.path().join("out"), parent.path().join("deep/adapter"));
    apart(adapter.clone(), &out).unwrap();
    assert_eq!(file_names(&adapter), ["adapter_config.json", "adapter_model.safetensors"]);
    assert!(!out.join("eora").exists());
    adapted(&out, &adapter);

    // Both names are taken now; neither folder is touched.
    let said = apart(adapter.clone(), &parent.path().join("other")).unwrap_err();
    assert_says(&said, &["deep/adapter", "already exists"]);
    let said = apart(parent.path().join("new"), &out).unwrap_err();
    assert_says(&said, &["out", "already exists"]);
    assert!(!parent.path().join("other").exists() && !parent.path().join("new").exists());
    let said = apart(parent.path().join("x"), &parent.path().join("x")).unwrap_err();
    assert_says(&said, &["output folder itself"]);
}

#[test]
fn skipped_linears_have_none_and_the_head_and_fallbacks_have_one() {
    let mut options = QuantizeOptions { lm_head: true, ..with_rank(4) };
    options.dynamic = rules(&json!({"-:.*o_proj": {}}));
    options.fallback = Some(FallbackPolicy {
        threshold: FallbackThreshold::Tokens(1 << 40),
        ..FallbackPolicy::default()
    });
    let run = Run::with(&options);
    let adapter = Adapter::open(&run.file("eora")).unwrap();
    let names: Vec<&str> = adapter.modules().collect();
    assert_eq!(names.len(), 12 + 1);
    assert!(names.contains(&"lm_head") && !names.iter().any(|n| n.contains("o_proj")), "{names:?}");
    assert!(kl(&adapted(&run.dir, &run.file("eora"))) < kl(&run.load()));
}

#[test]
fn an_adapter_needs_a_rank_and_inputs() {
    let said = refused(&source(), &calibration(), &with_rank(0));
    assert_says(&said, &["rank 0"]);
    let rtn = QuantizeOptions { method: Method::Rtn, ..with_rank(4) };
    assert_says(&refused(&source(), &[], &rtn), &["fitted to inputs"]);
}
