//! The written files, read by others' readers.

use std::collections::BTreeMap;

use gptq_core::Bits;
use gptq_models::Method;
use gptq_tests::{file_names, fixture, read_json, read_tensors};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::{Run, options};

/// Linears of a block: name, outputs, inputs.
const LINEARS: [(&str, usize, usize); 7] = [
    ("self_attn.q_proj", 64, 64),
    ("self_attn.k_proj", 32, 64),
    ("self_attn.v_proj", 32, 64),
    ("self_attn.o_proj", 64, 64),
    ("mlp.gate_proj", 96, 64),
    ("mlp.up_proj", 96, 64),
    ("mlp.down_proj", 64, 96),
];

/// What a checkpoint with groups of 32 must hold, and nothing else.
fn expected(bits: usize) -> BTreeMap<String, (Dtype, Vec<usize>)> {
    let mut all = BTreeMap::new();
    let mut put = |name: String, dtype: Dtype, shape: &[usize]| {
        all.insert(name, (dtype, shape.to_vec()));
    };
    for block in 0..2 {
        let prefix = format!("model.layers.{block}");
        for (name, outs, ins) in LINEARS {
            let groups = ins / 32;
            let linear = format!("{prefix}.{name}");
            put(format!("{linear}.qweight"), Dtype::I32, &[ins * bits / 32, outs]);
            put(format!("{linear}.qzeros"), Dtype::I32, &[groups, outs * bits / 32]);
            put(format!("{linear}.scales"), Dtype::F16, &[groups, outs]);
            put(format!("{linear}.g_idx"), Dtype::I32, &[ins]);
        }
        put(format!("{prefix}.input_layernorm.weight"), Dtype::F16, &[64]);
        put(format!("{prefix}.post_attention_layernorm.weight"), Dtype::F16, &[64]);
    }
    put("model.norm.weight".into(), Dtype::F16, &[64]);
    put("model.embed_tokens.weight".into(), Dtype::F16, &[320, 64]);
    put("lm_head.weight".into(), Dtype::F16, &[320, 64]);
    all
}

#[test]
fn tensors_have_the_names_types_and_shapes_of_the_format() {
    for bits in Bits::ALL {
        for method in [Method::Gptq, Method::Rtn] {
            let mut options = options(bits);
            options.method = method;
            let run = Run::with(&options);
            let tensors = read_tensors(&run.file("model.safetensors"));
            let found: BTreeMap<_, _> =
                tensors.into_iter().map(|(name, t)| (name, (t.dtype, t.shape))).collect();
            assert_eq!(found, expected(bits.get() as usize), "{bits:?} {method:?}");
        }
    }
}

#[test]
fn the_header_says_that_pytorch_can_read_it() {
    let bytes = std::fs::read(Run::with(&options(Bits::B4)).file("model.safetensors")).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let found = metadata.metadata().clone().unwrap();
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [("format".to_owned(), "pt".to_owned())]);
}

#[test]
fn both_configs_carry_the_same_settings_and_the_source_keys_stay() {
    let mut options = options(Bits::B4);
    options.config.damping.percent = 0.05;
    let run = Run::with(&options);
    let config = read_json(&run.file("config.json"));
    let quantization = read_json(&run.file("quantize_config.json"));
    assert_eq!(config["quantization_config"], quantization);
    for (key, value) in [
        ("bits", json!(4)),
        ("group_size", json!(32)),
        ("sym", json!(true)),
        ("desc_act", json!(false)),
        ("quant_method", json!("gptq")),
        ("checkpoint_format", json!("gptq")),
        ("damp_percent", json!(0.05)),
    ] {
        assert_eq!(quantization[key], value, "{key}");
    }
    let source = read_json(&fixture("arch/llama/config.json"));
    let source = source.as_object().unwrap();
    for (key, value) in source {
        assert_eq!(&config[key], value, "{key}");
    }
    let keys = |v: &Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let (found, mut wanted) = (keys(&config), source.keys().cloned().collect::<Vec<_>>());
    wanted.push("quantization_config".into());
    assert_eq!(found, wanted, "keys in their old order, one new at the end");
}

#[test]
fn what_is_not_quantized_is_copied_byte_for_byte() {
    let run = Run::with(&options(Bits::B2));
    let source = read_tensors(&fixture("arch/llama/model.safetensors"));
    let result = read_tensors(&run.file("model.safetensors"));
    let mut copied = 0;
    for (name, tensor) in &result {
        if let Some(original) = source.get(name) {
            assert!(tensor == original, "{name} changed");
            copied += 1;
        }
    }
    assert_eq!(copied, 7);
}

#[test]
fn only_what_belongs_to_the_result_is_in_its_folder() {
    let run = Run::with(&options(Bits::B4));
    let names = [
        "config.json",
        "generation_config.json",
        "gptq_report.json",
        "model.safetensors",
        "quantize_config.json",
    ];
    assert_eq!(file_names(&run.dir), names);
    let copied = std::fs::read(run.file("generation_config.json")).unwrap();
    assert!(copied == std::fs::read(fixture("arch/llama/generation_config.json")).unwrap());
}
