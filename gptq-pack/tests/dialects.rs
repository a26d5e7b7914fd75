//! Configs of the other formats: read, resolved, written, and refused by name.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failing test panics")]

use gptq_core::{Bits, GroupSize};
use gptq_pack::{CheckpointConfig, Dtype, Error, Format, LEGACY_TENSORS, RawTensor, Scheme, Width};
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

fn read(json: &Value) -> CheckpointConfig {
    CheckpointConfig::from_json(json).unwrap()
}

fn refused(json: &Value) -> String {
    CheckpointConfig::from_json(json).unwrap_err().to_string()
}

fn scheme(bits: u32, group_size: i64, sym: bool) -> Scheme {
    Scheme {
        bits: Width::try_from(bits).unwrap(),
        group_size: GroupSize::from_file(group_size).unwrap(),
        sym,
        desc_act: false,
    }
}

#[test]
fn autoawq() {
    let config = read(&json!({
        "quant_method": "awq",
        "zero_point": true,
        "group_size": 64,
        "bits": 4,
        "version": "GEMM",
        "modules_to_not_convert": ["lm_head", "mlp.gate."],
    }));
    assert_eq!(config.format, Format::Awq);
    assert_eq!(config.zero_format(), None);
    let of = |module| config.scheme(module).unwrap();
    assert_eq!(of("model.layers.0.mlp.gate_proj"), Some(scheme(4, 64, false)));
    assert_eq!(of("lm_head"), None);
    assert_eq!(of("model.layers.0.mlp.gate.0"), None, "a part of a name is enough");

    let json = config.to_json().unwrap();
    assert_eq!(
        json,
        json!({
            "quant_method": "awq",
            "bits": 4,
            "group_size": 64,
            "zero_point": true,
            "version": "gemm",
            "modules_to_not_convert": ["lm_head", "mlp.gate."],
        })
    );
    assert_eq!(read(&json), config);
}

#[test]
fn awq_spelled_otherwise() {
    // Old files: other keys, no method.
    let config = read(&json!({"w_bit": 4, "q_group_size": 128, "version": "GEMM"}));
    assert_eq!((config.format, config.base()), (Format::Awq, scheme(4, 128, false)));
    // GPTQModel names the layout twice, with its own keys besides.
    let config = read(&json!({
        "bits": 4, "group_size": 128, "desc_act": false, "lm_head": false, "method": "awq",
        "quant_method": "awq", "format": "gemm", "checkpoint_format": "gemm", "pack_dtype": "int32",
        "meta": {"quantizer": ["gptqmodel:7.7.0"]}, "sym": true, "zero_point": false,
        "version": "gemm",
    }));
    assert_eq!((config.format, config.base()), (Format::Awq, scheme(4, 128, true)));
    assert_eq!(config.meta["quantizer"][0], "gptqmodel:7.7.0");
    let config = read(&json!({"quant_method": "awq", "bits": 4, "group_size": -1}));
    assert_eq!(config.base(), scheme(4, -1, false));
}

#[test]
fn other_awq_layouts_are_refused_by_name() {
    for version in ["gemv", "gemv_fast", "llm-awq", "marlin"] {
        let message = refused(&json!({"quant_method": "awq", "bits": 4, "version": version}));
        assert!(message.starts_with(&format!("version is {version}, which is not read")));
        assert!(message.contains("quantize with version gemm"), "{message}");
    }
    let message = refused(&json!({"quant_method": "awq", "bits": 4, "backend": "llm-awq"}));
    assert!(message.contains("convert it to gemm with AutoAWQ"), "{message}");
    let message = refused(&json!({"quant_method": "awq", "bits": 8}));
    assert!(message.contains("gemm layout holds 4 bits"), "{message}");
    let message =
        refused(&json!({"quant_method": "awq", "bits": 4, "modules_to_not_convert": "x"}));
    assert_eq!(message, "modules_to_not_convert is \"x\", but must be a list");
}

#[test]
fn awq_can_leave_modules_out_and_nothing_else() {
    let mut config = read(&json!({"quant_method": "awq", "bits": 4}));
    config.dynamic =
        gptq_pack::DynamicRules::from_json(&json!({"+:.*down_proj": {"bits": 8}})).unwrap();
    let message = config.to_json().unwrap_err().to_string();
    assert!(message.contains("not say \"+:.*down_proj\""), "{message}");
    config.dynamic = gptq_pack::DynamicRules::from_json(&json!({"-:.*[0-9]": {}})).unwrap();
    assert!(config.to_json().is_err());
    let mut config = read(&json!({"quant_method": "awq", "bits": 4}));
    config.desc_act = true;
    let message = config.to_json().unwrap_err().to_string();
    assert!(message.contains("no place for group indices"), "{message}");
}

/// As llm-compressor writes it, with a group besides.
fn llm_compressor() -> Value {
    let weights = |bits: u32, group: Value, strategy: &str, symmetric: bool| {
        json!({
            "actorder": "static", "block_structure": null, "dynamic": false, "group_size": group,
            "num_bits": bits, "observer": "minmax", "observer_kwargs": {}, "strategy": strategy,
            "symmetric": symmetric, "type": "int",
        })
    };
    json!({
        "config_groups": {
            "group_0": {
                "input_activations": null, "output_activations": null, "targets": ["Linear"],
                "weights": weights(4, json!(128), "group", true),
            },
            "group_1": {
                "input_activations": null, "output_activations": null, "format": "pack-quantized",
                "targets": ["re:.*down_proj", "model.layers.1.mlp.down_proj"],
                "weights": weights(8, Value::Null, "channel", false),
            },
        },
        "format": "pack-quantized",
        "global_compression_ratio": 1.4,
        "ignore": ["lm_head", "re:.*\\.gate$"],
        "kv_cache_scheme": null,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "sparsity_config": {},
        "transform_config": {},
        "version": "0.10.2",
    })
}

#[test]
fn compressed_tensors() {
    let config = read(&llm_compressor());
    assert_eq!(config.format, Format::CompressedTensors);
    assert!(!config.lm_head && !config.desc_act);
    let of = |module| config.scheme(module).unwrap();
    assert_eq!(of("model.layers.0.mlp.up_proj"), Some(scheme(4, 128, true)));
    assert_eq!(of("model.layers.1.mlp.down_proj"), Some(scheme(8, -1, false)));
    assert_eq!(of("model.layers.2.mlp.down_proj"), Some(scheme(8, -1, false)));
    assert_eq!(of("lm_head"), None);
    assert_eq!(of("model.layers.0.mlp.gate"), None);
    assert_eq!(of("model.layers.0.mlp.gate_proj"), Some(scheme(4, 128, true)));

    let json = config.to_json().unwrap();
    assert_eq!(json["ignore"], json!(["lm_head", "re:.*\\.gate$"]));
    assert_eq!(json["config_groups"]["group_0"]["targets"], json!(["Linear"]));
    let second = &json["config_groups"]["group_1"];
    assert_eq!(second["targets"], json!(["model.layers.1.mlp.down_proj", "re:.*down_proj"]));
    assert_eq!(second["weights"]["strategy"], "channel");
    assert_eq!(second["weights"]["group_size"], Value::Null);
    assert_eq!(read(&json), config);
}

#[test]
fn without_linear_only_named_modules_are_packed() {
    let mut json = llm_compressor();
    json["config_groups"].as_object_mut().unwrap().remove("group_0");
    let config = read(&json);
    assert_eq!(config.base(), scheme(8, -1, false));
    assert_eq!(config.scheme("model.layers.0.mlp.up_proj"), Ok(None));
    assert_eq!(config.scheme("model.layers.0.mlp.down_proj"), Ok(Some(config.base())));
    assert_eq!(read(&config.to_json().unwrap()), config);
}

#[test]
fn rules_that_would_change_places_are_refused() {
    let with = |rules: Value| {
        let mut config = CheckpointConfig::new(Bits::B4, GroupSize::PerChannel);
        config.format = Format::CompressedTensors;
        config.dynamic = gptq_pack::DynamicRules::from_json(&rules).unwrap();
        config.to_json()
    };
    let eight = json!({"bits": 8});
    assert!(with(json!({"-:.*gate$": {}, "h\\.0\\.up$": eight, ".*down": eight})).is_ok());
    assert!(with(json!({".*down": eight, "-:.*h\\.1": {}})).is_err());
    assert!(with(json!({".*up": eight, ".*down": eight})).is_err());
    assert!(with(json!({"-:.*": {}, ".*down": eight})).is_ok(), "all is left alone");
    let message = with(json!({".*down": eight, "a\\.down$": {}})).unwrap_err().to_string();
    assert!(message.contains("the rules \".*down\" and \"a\\\\.down$\" change"), "{message}");
}

#[test]
fn other_widths_and_orders_of_compressed_tensors() {
    let mut json = llm_compressor();
    json["config_groups"].as_object_mut().unwrap().remove("group_1");
    let weights = &mut json["config_groups"]["group_0"]["weights"];
    weights["num_bits"] = json!(6);
    weights["actorder"] = json!("group");
    let config = read(&json);
    assert_eq!(config.base(), Scheme { desc_act: true, ..scheme(6, 128, true) });
    let written = config.to_json().unwrap();
    assert_eq!(written["config_groups"]["group_0"]["weights"]["actorder"], "group");
    assert_eq!(read(&written), config);
}

#[test]
fn other_kinds_of_compressed_tensors_are_refused_by_name() {
    let change = |change: fn(&mut Value)| {
        let mut json = llm_compressor();
        change(&mut json);
        refused(&json)
    };
    for (message, expected) in [
        (change(|c| c["format"] = json!("nvfp4-pack-quantized")), "format is nvfp4-pack-quantized"),
        (change(|c| c["format"] = json!("int-quantized")), "format is int-quantized, which is"),
        (
            change(|c| c["config_groups"]["group_1"]["format"] = json!("float-quantized")),
            "format is float-quantized, which is not read: only pack-quantized is read",
        ),
        (
            change(|c| c["config_groups"]["group_0"]["input_activations"] = json!({"num_bits": 8})),
            "input_activations is {\"num_bits\":8}, which is not read: only quantized weights",
        ),
        (
            change(|c| c["config_groups"]["group_0"]["weights"]["type"] = json!("float")),
            "type is float, which is not read: only whole-number codes",
        ),
        (
            change(|c| c["config_groups"]["group_0"]["weights"]["strategy"] = json!("block")),
            "strategy is block",
        ),
        (
            change(|c| c["config_groups"]["group_0"]["weights"]["num_bits"] = json!(1)),
            "bits is 1, but packed layouts hold codes of 2 to 8 bits",
        ),
        (
            change(|c| c["config_groups"]["group_0"]["weights"]["group_size"] = Value::Null),
            "the quantization config lacks group_size",
        ),
        (
            change(|c| c["config_groups"]["group_0"]["weights"] = Value::Null),
            "the quantization config lacks weights",
        ),
        (
            change(|c| c["config_groups"] = json!({"W4A16": ["Linear"]})),
            "W4A16 is [\"Linear\"], but must be an object",
        ),
        (change(|c| c["config_groups"] = json!({})), "the quantization config lacks config_groups"),
        (change(|c| c["kv_cache_scheme"] = json!({"num_bits": 8})), "kv_cache_scheme is "),
        (change(|c| c["transform_config"] = json!({"u": {}})), "transform_config is "),
        (change(|c| c["ignore"] = json!(["re:("])), "dynamic rule \"-:(\" is no regular"),
        (change(|c| c["ignore"] = json!([4])), "ignore is 4, but must be a string"),
    ] {
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn marlin_in_three_spellings() {
    for json in [
        json!({"bits": 4, "quant_method": "gptq", "checkpoint_format": "marlin"}),
        json!({"bits": 4, "quant_method": "gptq", "is_marlin_format": true, "desc_act": true}),
        json!({"bits": 4, "quant_method": "MARLIN", "group_size": 128}),
        json!({"bits": 4, "quant_method": "marlin", "checkpoint_format": "marlin"}),
    ] {
        let config = read(&json);
        assert_eq!((config.format, config.desc_act), (Format::Marlin, false));
        let json = config.to_json().unwrap();
        assert_eq!(json["checkpoint_format"], "marlin");
        assert_eq!(json["quant_method"], "gptq");
        assert!(json.get("is_marlin_format").is_none(), "GPTQModel refuses the key");
        assert_eq!(read(&json), config);
    }
    let message = refused(&json!({
        "bits": 4, "is_marlin_format": true, "checkpoint_format": "gptq",
    }));
    assert!(message.starts_with("checkpoint_format is \"gptq\", but is_marlin_format is true"));
    let message = refused(&json!({"bits": 4, "quant_method": "marlin", "format": "gptq"}));
    assert!(message.starts_with("format is \"gptq\", but quant_method is \"marlin\""), "{message}");
}

#[test]
fn bit_planes() {
    let config = read(&json!({"bits": 5, "format": "gptq_p", "checkpoint_format": "GPTQ_P"}));
    assert_eq!((config.format, config.bits.get()), (Format::GptqP, 5));
    assert_eq!(read(&config.to_json().unwrap()), config);
    assert!(refused(&json!({"bits": 5})).contains("GPTQ checkpoints hold 2, 3, 4 or 8 bits"));
}

#[test]
fn auto_round_exports() {
    // Exported as GPTQ: it says so itself.
    let json = json!({
        "bits": 4, "group_size": 128, "sym": true, "desc_act": false, "true_sequential": false,
        "damp_percent": 0.01, "lm_head": false, "provider": "auto-round",
        "autoround_version": "0.9.0", "quant_method": "gptq",
        "dynamic": {"+:.*v_proj": {"bits": 8}, "-:.*gate$": {}},
        "modules_in_block_to_quantize": [["self_attn.q_proj", "mlp.up_proj"]],
    });
    let config = read(&json);
    assert_eq!(config.format, Format::Gptq);
    assert_eq!(config.extra.len(), 3);
    assert_eq!(config.scheme("h.0.v_proj").unwrap().unwrap().bits, Bits::B8);
    let written = config.to_json().unwrap();
    assert_eq!(written["modules_in_block_to_quantize"], json["modules_in_block_to_quantize"]);
    assert_eq!(read(&written), config);

    // Its own dialect.
    let json = json!({
        "bits": 4, "group_size": 64, "sym": false, "data_type": "int",
        "quant_method": "auto-round", "packing_format": "auto_round:auto_gptq",
        "extra_config": {
            "model.layers.0.mlp.down_proj": {"bits": 8, "group_size": 32, "act_bits": null},
            "lm_head": {"bits": 16, "data_type": "float"},
            "layers\\.[12]\\.mlp": {"sym": true},
        },
    });
    let config = read(&json);
    assert_eq!((config.format, config.base()), (Format::Gptq, scheme(4, 64, false)));
    let of = |module| config.scheme(module).unwrap();
    assert_eq!(of("model.layers.0.mlp.down_proj"), Some(scheme(8, 32, false)));
    assert_eq!(of("lm_head"), None);
    assert_eq!(of("model.layers.2.mlp.up_proj"), Some(scheme(4, 64, true)));
    assert_eq!(of("model.layers.3.mlp.up_proj"), Some(scheme(4, 64, false)));

    let mut awq = json.clone();
    awq["packing_format"] = json!("auto_round:auto_awq");
    assert_eq!(read(&awq).format, Format::Awq);
    awq["packing_format"] = json!("auto_round:llm_compressor");
    assert!(refused(&awq).contains("\"auto_round:llm_compressor\""));
    awq["packing_format"] = Value::Null;
    assert!(refused(&awq).contains("lacks packing_format"));
}

#[test]
fn settings_in_tensors() {
    let tensor =
        |dtype, bytes: &[u8]| RawTensor { dtype, shape: vec![1], bytes: bytes.to_vec().into() };
    let mut config = CheckpointConfig::new(Bits::B4, GroupSize::PerChannel);
    let [bits, group, sym] = LEGACY_TENSORS;
    config.set_by_tensor(bits, &tensor(Dtype::I64, &8i64.to_le_bytes())).unwrap();
    config.set_by_tensor(group, &tensor(Dtype::I32, &32i32.to_le_bytes())).unwrap();
    config.set_by_tensor(sym, &tensor(Dtype::Other, &[0])).unwrap();
    assert_eq!(config.base(), scheme(8, 32, false));

    let error = config.set_by_tensor(bits, &tensor(Dtype::I32, &99i32.to_le_bytes()));
    assert_eq!(error, Err(Error::UnsupportedWidth { bits: 99 }));
    let error = config.set_by_tensor(group, &tensor(Dtype::I32, &[0; 3])).unwrap_err().to_string();
    assert_eq!(
        error,
        "gptq_groupsize is I32 of shape [1], but must be a tensor of one whole number"
    );
    assert!(config.set_by_tensor(group, &tensor(Dtype::I64, &[0; 8])).is_err());
    assert!(config.set_by_tensor(sym, &tensor(Dtype::I32, &[2, 0, 0, 0])).is_err());
    assert!(config.set_by_tensor("gptq_x", &tensor(Dtype::I32, &[0; 4])).is_err());
}

fn a_scheme() -> impl Strategy<Value = Scheme> {
    let bits = prop::sample::select(&Bits::ALL[..]);
    (bits, prop::sample::select(&[-1i64, 32, 128][..]), any::<bool>(), any::<bool>()).prop_map(
        |(bits, size, sym, desc_act)| Scheme { desc_act, ..scheme(bits.get(), size, sym) },
    )
}

proptest! {
    /// What is said of every module is what is read of it, in every dialect that can say it.
    #[test]
    fn configs_for_modules_say_what_they_were_told(
        format in prop::sample::select(&Format::ALL[..]),
        uniform in any::<bool>(),
        schemes in vec(prop::option::weighted(0.8, a_scheme()), 1..12),
    ) {
        let names: Vec<String> = (0..schemes.len()).map(|i| format!("model.h.{i}.up")).collect();
        let only = schemes.iter().flatten().next().copied();
        let schemes: Vec<_> = schemes
            .into_iter()
            .map(|scheme| if uniform { scheme.and(only) } else { scheme })
            .collect();
        let modules = || names.iter().map(String::as_str).zip(schemes.iter().copied());
        let start = CheckpointConfig::new(Bits::B4, GroupSize::PerChannel);
        let config = start.for_modules(format, modules()).unwrap();
        for (name, scheme) in modules() {
            prop_assert_eq!(config.scheme(name).unwrap(), scheme);
        }
        let Ok(json) = config.to_json() else {
            prop_assert!(format == Format::Marlin || format == Format::Awq);
            return Ok(());
        };
        let Ok(back) = CheckpointConfig::from_json(&json) else {
            // AWQ's reader wants 4 bits.
            prop_assert!(format == Format::Awq && config.bits != Bits::B4);
            return Ok(());
        };
        prop_assert_eq!(back.format, format);
        for (name, scheme) in modules() {
            let same = |a: Scheme, b: Scheme| match format {
                // AWQ files say that zero points are stored, not that they differ.
                Format::Awq => Scheme { sym: b.sym, ..a } == b,
                _ => a == b,
            };
            match (back.scheme(name).unwrap(), scheme) {
                (Some(a), Some(b)) => prop_assert!(same(a, b), "{a:?} {b:?}"),
                (a, b) => prop_assert_eq!(a, b),
            }
        }
    }

    #[test]
    fn random_configs_never_panic(
        entries in vec((prop::sample::select(&KEYS[..]), value()), 0..8),
    ) {
        let json = Value::Object(entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect());
        if let Ok(config) = CheckpointConfig::from_json(&json) {
            let _ = config.scheme("model.layers.0.mlp.up_proj");
            if let Ok(written) = config.to_json() {
                let back = read(&written);
                prop_assert_eq!(back.format, config.format);
                prop_assert_eq!((back.bits, back.group_size), (config.bits, config.group_size));
            }
        }
    }
}

const KEYS: [&str; 18] = [
    "quant_method",
    "METHOD",
    "bits",
    "num_bits",
    "group_size",
    "sym",
    "zero_point",
    "version",
    "format",
    "checkpoint_format",
    "config_groups",
    "ignore",
    "modules_to_not_convert",
    "weights",
    "targets",
    "packing_format",
    "extra_config",
    "strategy",
];

fn value() -> impl Strategy<Value = Value> {
    let words = [
        "gptq",
        "awq",
        "compressed-tensors",
        "gemm",
        "marlin",
        "gptq_p",
        "pack-quantized",
        "Linear",
        "auto-round",
        "auto_round:auto_gptq",
        "group",
        "channel",
        "re:.*a",
        "(",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2..10i64).prop_map(Value::from),
        prop::sample::select(words.to_vec()).prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        let key = prop_oneof![prop::sample::select(&KEYS[..]), Just("g")];
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            vec((key, inner), 0..5).prop_map(|entries| {
                Value::Object(entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    })
}
