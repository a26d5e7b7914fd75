//! Configs of the tools in use: read, resolved, written.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic like tests")]

use gptq_core::{Bits, GroupSize};
use gptq_pack::{CheckpointConfig, DynamicRules, Format, Scheme};
use serde_json::{Value, json};

fn read(json: &Value) -> CheckpointConfig {
    CheckpointConfig::from_json(json).unwrap()
}

fn group_size(size: i64) -> GroupSize {
    GroupSize::from_file(size).unwrap()
}

#[test]
fn autogptq() {
    let config = read(&json!({
        "bits": 3,
        "group_size": -1,
        "damp_percent": 0.05,
        "desc_act": true,
        "static_groups": true,
        "sym": false,
        "true_sequential": false,
        "model_name_or_path": null,
        "model_file_base_name": "model",
        "is_marlin_format": false,
        "quant_method": "gptq",
    }));
    assert_eq!(config.bits, Bits::B3);
    assert_eq!(config.group_size, GroupSize::PerChannel);
    assert_eq!(config.damp_percent, Some(0.05));
    assert!(config.desc_act && config.static_groups && !config.sym && !config.true_sequential);
    assert_eq!(config.format, Format::Gptq);
    assert_eq!(config.extra["model_file_base_name"], "model");
    assert!(!config.extra.contains_key("is_marlin_format"), "GPTQModel refuses the key");
}

#[test]
fn gptqmodel_keeps_settings_in_meta() {
    let json = json!({
        "bits": 4,
        "dynamic": {"-:.*gate$": {}, ".*down_proj": {"bits": 8, "group_size": 32}},
        "group_size": 128,
        "desc_act": false,
        "lm_head": false,
        "method": "gptq",
        "quant_method": "gptq",
        "format": "gptq_v2",
        "checkpoint_format": "gptq_v2",
        "pack_dtype": "int32",
        "meta": {
            "quantizer": ["gptqmodel:7.3.4"],
            "damp_percent": 0.1,
            "static_groups": true,
            "true_sequential": true,
        },
        "sym": true,
    });
    let config = read(&json);
    assert_eq!(config.damp_percent, Some(0.1));
    assert!(config.static_groups);
    assert_eq!(config.format, Format::GptqV2);
    assert!(config.extra.is_empty());

    let scheme = |module| config.scheme(module).unwrap();
    let default =
        Scheme { bits: Bits::B4.into(), group_size: group_size(128), sym: true, desc_act: false };
    assert_eq!(scheme("model.layers.0.mlp.gate"), None);
    assert_eq!(scheme("model.layers.0.mlp.up_proj"), Some(default));
    let down = Scheme { bits: Bits::B8.into(), group_size: group_size(32), ..default };
    assert_eq!(scheme("model.layers.0.mlp.down_proj"), Some(down));

    // Reading loses nothing: every key is written back, in the same order, before our own.
    let written = config.to_json().unwrap();
    let (json, written) = (json.as_object().unwrap(), written.as_object().unwrap());
    assert!(json.iter().eq(written.iter().take(json.len())));
}

#[test]
fn old_spellings_in_any_case() {
    let config =
        read(&json!({"WBits": 8, "Q_Group_Size": 64, "Zero_Point": true, "METHOD": "GPTQ"}));
    assert_eq!(config.bits, Bits::B8);
    assert_eq!(config.group_size, group_size(64));
    assert!(!config.sym, "zero_point is the opposite of sym");
    assert_eq!(config.extra.len(), 0);
    assert!(read(&json!({"bits": 4, "sym": true, "zero_point": false})).sym);

    let v2 = read(&json!({"bits": 4, "version": "gptq_v2"}));
    assert_eq!(v2.format, Format::GptqV2);
    assert!(v2.extra.is_empty());
    let v1 = read(&json!({"bits": 4, "format": "gptq", "version": "1.0"}));
    assert_eq!(v1.extra["version"], "1.0");
}

#[test]
fn what_is_missing() {
    let config = read(&json!({"bits": 4, "meta": {"quantizer": []}}));
    assert_eq!(config.group_size, group_size(128));
    assert!(config.sym && !config.desc_act && config.true_sequential);
    assert_eq!(config.damp_percent, None);
    assert_eq!(config.format, Format::Gptq);
}

#[test]
fn written_configs_state_what_readers_need_and_read_back() {
    let dynamic = json!({"z.*": {"sym": false}, "-:a.*": {}});
    for format in [Format::Gptq, Format::GptqV2] {
        let mut config = CheckpointConfig {
            sym: false,
            desc_act: true,
            format,
            damp_percent: Some(0.01),
            dynamic: DynamicRules::from_json(&dynamic).unwrap(),
            ..CheckpointConfig::new(Bits::B2, group_size(64))
        };
        config.extra.insert("modules_in_block_to_quantize".to_owned(), json!([["q_proj"]]));
        config.extra.insert("Bits".to_owned(), json!(99));
        let json = config.to_json().unwrap();
        let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "bits",
                "dynamic",
                "group_size",
                "desc_act",
                "lm_head",
                "method",
                "quant_method",
                "format",
                "checkpoint_format",
                "pack_dtype",
                "meta",
                "sym",
                "damp_percent",
                "static_groups",
                "true_sequential",
                "modules_in_block_to_quantize",
            ]
        );
        assert_eq!(json["checkpoint_format"], format.as_str());
        assert_eq!(json["quant_method"], "gptq");
        config.extra.remove("Bits");
        assert_eq!(read(&json), config);
    }
}
