//! Weights: everything that is in the folder, as it was.

use std::path::Path;

use gptq_core::{Bits, QuantConfig};
use gptq_models::{GgufOptions, GgufType, Method, quantization_config};
use gptq_pack::{
    LinearTensors, PackSpec, PackedLinearRef, RawTensor, gguf::BlockType, names::Part,
};
use gptq_tests::{Stored, Tensors, read_tensors};
use half::f16;
use safetensors::Dtype;

use crate::{
    folder, groups_of, llama, quantized,
    reader::{Gguf, Value},
    written,
};

/// Ours below a block, theirs, and the heads whose rows change places.
const PARTS: [(&str, &str, Option<usize>); 9] = [
    ("input_layernorm", "attn_norm", None),
    ("self_attn.q_proj", "attn_q", Some(4)),
    ("self_attn.k_proj", "attn_k", Some(2)),
    ("self_attn.v_proj", "attn_v", None),
    ("self_attn.o_proj", "attn_output", None),
    ("post_attention_layernorm", "ffn_norm", None),
    ("mlp.gate_proj", "ffn_gate", None),
    ("mlp.up_proj", "ffn_up", None),
    ("mlp.down_proj", "ffn_down", None),
];

fn floats(tensor: &Stored) -> Vec<f32> {
    let halves = tensor.bytes.as_chunks::<2>().0.iter();
    match tensor.dtype {
        Dtype::F16 => halves.map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => halves.map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::F32 => {
            tensor.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// What a packed linear stands for, by the crate that reads checkpoints.
fn dequantized(dir: &Path, tensors: &Tensors, name: &str) -> Vec<f32> {
    let checkpoint = gptq_models::Checkpoint::open(dir).unwrap();
    let config = quantization_config(&checkpoint).unwrap().unwrap();
    let scheme = config.scheme(name).unwrap().unwrap();
    let raw = |part: Part| {
        let stored = tensors.get(&part.of(name)).unwrap();
        let dtype = match stored.dtype {
            Dtype::I32 => gptq_pack::Dtype::I32,
            Dtype::F16 => gptq_pack::Dtype::F16,
            other => panic!("{other:?}"),
        };
        RawTensor::new(dtype, &stored.shape, &stored.bytes)
    };
    let layer = LinearTensors {
        qweight: raw(Part::QWeight),
        qzeros: raw(Part::QZeros),
        scales: raw(Part::Scales),
        g_idx: Some(raw(Part::GIdx)),
        bias: None,
    };
    let spec = PackSpec {
        in_features: tensors[&Part::GIdx.of(name)].shape[0],
        out_features: tensors[&Part::Scales.of(name)].shape[1],
        bits: Some(scheme.bits.bits()),
        group_size: scheme.group_size,
        zero_format: config.zero_format().unwrap(),
    };
    let layer = PackedLinearRef::from_tensors(&layer, &spec).unwrap();
    layer.unpack().dequantize().into_raw_vec_and_offset().0
}

/// Every number of the folder against every number of the file; `close` says when they are equal.
fn compare(dir: &Path, file: &Gguf, close: impl Fn(f32, f32) -> bool) {
    let tensors = read_tensors(&dir.join("model.safetensors"));
    let mut seen = 0;
    let mut same = |ours: &str, theirs: &str, heads: Option<usize>| {
        let found = file.tensor(theirs);
        let found = heads.map_or_else(|| found.floats(), |heads| found.unpaired(heads));
        let want = match tensors.get(ours) {
            Some(dense) => floats(dense),
            None => dequantized(dir, &tensors, ours.strip_suffix(".weight").unwrap()),
        };
        assert_eq!(found.len(), want.len(), "{theirs}");
        let differs = found.iter().zip(&want).position(|(a, b)| !close(*a, *b));
        assert_eq!(differs, None, "{theirs}");
        seen += 1;
    };
    same("model.embed_tokens.weight", "token_embd.weight", None);
    same("model.norm.weight", "output_norm.weight", None);
    if tensors.contains_key("lm_head.weight") {
        same("lm_head.weight", "output.weight", None);
    }
    for block in 0..2 {
        for (ours, theirs, heads) in PARTS {
            for kind in ["weight", "bias"] {
                let ours = format!("model.layers.{block}.{ours}.{kind}");
                if kind == "weight" || tensors.contains_key(&ours) {
                    same(&ours, &format!("blk.{block}.{theirs}.{kind}"), heads);
                }
            }
        }
    }
    assert_eq!(seen, file.tensors.len(), "the file holds more");
}

fn linears(file: &Gguf) -> Vec<u32> {
    let linear = |name: &str| {
        name.starts_with("blk.") && name.ends_with(".weight") && !name.contains("norm")
    };
    let mut types: Vec<u32> =
        file.tensors.iter().filter(|(name, _)| linear(name)).map(|(_, t)| t.ty).collect();
    types.dedup();
    types
}

#[test]
fn a_dense_folder_keeps_its_types() {
    let dir = llama();
    let (file, report) = written(dir.path(), &GgufOptions::default());
    compare(dir.path(), &file, |a, b| a == b);
    assert!(file.tensors.iter().all(|(name, t)| t.ty == u32::from(!name.contains("norm"))));
    assert!(report.exact && report.tensors.iter().all(|t| t.loss.is_none()));
    assert_eq!(file.value("general.file_type"), &Value::U32(1));
}

/// A checkpoint's numbers and biases as bf16, which have other bits than halves.
#[test]
fn bf16_and_biases() {
    let dir = folder("arch/llama", &crate::byte_level(), |files| {
        files.config["attention_bias"] = true.into();
        files.config["mlp_bias"] = true.into();
        for tensor in files.tensors.values_mut() {
            let floats = floats(tensor);
            tensor.dtype = Dtype::BF16;
            tensor.bytes =
                floats.iter().flat_map(|&w| half::bf16::from_f32(w).to_le_bytes()).collect();
        }
        for block in 0..2 {
            for (ours, _, _) in PARTS.iter().filter(|(ours, _, _)| ours.ends_with("_proj")) {
                let name = format!("model.layers.{block}.{ours}");
                let rows = files.tensors[&format!("{name}.weight")].shape[0];
                let bias = (0..rows).flat_map(|r| half::bf16::from_f32(r as f32).to_le_bytes());
                let bias = Stored { dtype: Dtype::BF16, shape: vec![rows], bytes: bias.collect() };
                files.tensors.insert(format!("{name}.bias"), bias);
            }
        }
    });
    let (file, _) = written(dir.path(), &GgufOptions::default());
    compare(dir.path(), &file, |a, b| a == b);
    assert_eq!(file.tensor("token_embd.weight").ty, 30);
    assert_eq!(file.tensor("blk.0.attn_q.bias").ty, 0);
    assert_eq!(file.value("general.file_type"), &Value::U32(32));
}

#[test]
fn a_tied_head_is_not_there() {
    let dir = folder("arch/llama", &crate::byte_level(), |files| {
        files.config["tie_word_embeddings"] = true.into();
        files.tensors.remove("lm_head.weight");
    });
    let (file, _) = written(dir.path(), &GgufOptions::default());
    compare(dir.path(), &file, |a, b| a == b);
    assert!(!file.tensors.contains_key("output.weight"));
}

#[test]
fn each_scheme_finds_the_smallest_type_that_loses_nothing() {
    let cases = [
        (Bits::B2, true, 2),
        (Bits::B3, true, 2),
        (Bits::B4, true, 2),
        (Bits::B8, true, 8),
        // Codes less their zero points are within ±3 and ±7.
        (Bits::B2, false, 2),
        (Bits::B3, false, 2),
        (Bits::B4, false, 6),
    ];
    for (bits, sym, ty) in cases {
        for group_size in [32, -1] {
            let dir = llama();
            let config = QuantConfig { bits, sym, ..groups_of(group_size) };
            let method = if group_size == 32 { Method::Gptq } else { Method::Rtn };
            let model = quantized(&dir, method, config);
            let (file, report) = written(&model, &GgufOptions::default());
            compare(&model, &file, |a, b| a == b);
            assert_eq!(linears(&file), [ty], "{bits:?} {sym}");
            assert!(report.exact);
            let losses: Vec<_> = report.tensors.iter().filter_map(|t| t.loss).collect();
            assert_eq!(losses.len(), 14);
            let wide = report.notices.iter().any(|n| n.contains("4.5 bits per weight"));
            assert_eq!(wide, bits.get() < 4, "{:?}", report.notices);
        }
    }
}

#[test]
fn a_type_that_does_not_fit_says_what_it_costs() {
    let dir = llama();
    let config = QuantConfig { bits: Bits::B4, sym: false, ..groups_of(32) };
    let model = quantized(&dir, Method::Rtn, config);
    // Shares of the rms weight; no weight is above 8 of it. Q4_1 keeps the integers and rounds an
    // offset to 11 bits; Q4_0 rounds anew, to an eighth of the largest; f16 rounds to 11 bits.
    let (fine, coarse) = (8.0 / 2048.0, 8.0 / 8.0);
    let cases = [("q4_1", 3, fine), ("q4_0", 2, coarse), ("f16", 1, fine), ("Q8_0", 8, 0.0)];
    for (name, ty, bound) in cases {
        let options = GgufOptions { ty: name.parse().unwrap(), ..GgufOptions::default() };
        let (file, report) = written(&model, &options);
        assert_eq!(linears(&file), [ty]);
        assert_eq!(report.exact, bound == 0.0, "{name}");
        let losses = report.tensors.iter().filter_map(|t| t.loss);
        let worst = losses.map(|loss| loss.max).fold(0.0, f64::max);
        assert!(worst <= bound && worst >= bound / 100.0, "{name}: {worst}");
        compare(&model, &file, |a, b| (a - b).abs() <= 0.1);
    }
    let error = "q3_k".parse::<GgufType>().unwrap_err().to_string();
    gptq_tests::assert_says(&error, &["q3_k", "auto", "q4_0", "f16"]);
}

#[test]
fn layers_that_rules_skip_stay_as_they_are() {
    let dir = llama();
    let out = dir.path().join("quantized");
    let mut options = gptq_models::QuantizeOptions {
        method: Method::Rtn,
        config: groups_of(32),
        ..Default::default()
    };
    let rules = serde_json::json!({"-:.*down_proj": {}});
    options.dynamic = gptq_pack::DynamicRules::from_json(&rules).unwrap();
    let source = gptq_models::Checkpoint::open(dir.path()).unwrap();
    let backend = gptq_kernels::CpuBackend::new();
    gptq_models::quantize(&source, &[], &backend, &options, &out, &mut ()).unwrap();
    let (file, _) = written(&out, &GgufOptions::default());
    compare(&out, &file, |a, b| a == b);
    assert_eq!(file.tensor("blk.1.ffn_down.weight").ty, 1);
    assert_eq!(file.tensor("blk.1.ffn_up.weight").ty, 2);
}

#[test]
fn the_smallest_type_is_a_choice_of_blocks() {
    assert_eq!("auto".parse::<GgufType>().unwrap(), GgufType::default());
    for ty in BlockType::ALL {
        assert_eq!(ty.to_string().parse::<GgufType>().unwrap(), GgufType::Blocks(ty));
    }
}

/// Linear scaling by 2 divides every frequency by 2. The llama3 scaling of its fixture divides by 8
/// where a turn takes more than 64 positions, not at all where it takes less than 16, and blends
/// between.
#[test]
fn scaled_rotations_are_factors() {
    let factors = |name: &str| {
        let dir = folder(name, &crate::byte_level(), |_| {});
        let (file, _) = written(dir.path(), &GgufOptions::default());
        let factors = file.tensors.get("rope_freqs.weight").map(|t| t.floats());
        (factors, file)
    };
    assert_eq!(factors("arch/llama").0, None);

    let (linear, file) = factors("arch/llama-linear-rope");
    let heads = file.value("llama.rope.dimension_count");
    let Value::U32(dim) = heads else { panic!("{heads:?}") };
    let linear = linear.unwrap();
    assert_eq!(linear.len(), *dim as usize / 2);
    assert!(linear.iter().all(|f| (f / 2.0 - 1.0).abs() < 1e-6), "{linear:?}");
    assert!(!file.pairs.contains_key("llama.rope.scaling.attn_factor"));

    let (llama3, file) = factors("arch/llama3-rope");
    let (factor, low, high, original, theta) = (8.0, 1.0, 4.0, 64.0, 500_000f64);
    let Value::U32(dim) = *file.value("llama.rope.dimension_count") else { panic!() };
    for (i, found) in llama3.unwrap().into_iter().enumerate() {
        let turn = 2.0 * std::f64::consts::PI * theta.powf(2.0 * i as f64 / f64::from(dim));
        let smooth = ((original / turn - low) / (high - low)).clamp(0.0, 1.0);
        let want = 1.0 / ((1.0 - smooth) / factor + smooth);
        assert!((f64::from(found) / want - 1.0).abs() < 1e-5, "{i}: {found} against {want}");
    }

    let (yarn, file) = factors("arch/llama-yarn");
    assert!(yarn.unwrap().iter().any(|&f| f > 1.0));
    assert!(file.pairs.contains_key("llama.rope.scaling.attn_factor"));
}

#[test]
fn the_models_numbers() {
    let dir = llama();
    let options = GgufOptions { name: Some("Tiny".into()), ..GgufOptions::default() };
    let (file, _) = written(dir.path(), &options);
    for (key, number) in [
        ("vocab_size", 320),
        ("context_length", 128),
        ("embedding_length", 64),
        ("block_count", 2),
        ("feed_forward_length", 96),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("attention.key_length", 16),
        ("attention.value_length", 16),
        ("rope.dimension_count", 16),
    ] {
        assert_eq!(file.value(&format!("llama.{key}")), &Value::U32(number), "{key}");
    }
    assert_eq!(file.value("llama.attention.layer_norm_rms_epsilon"), &Value::F32(1e-6));
    assert_eq!(file.value("llama.rope.freq_base"), &Value::F32(10000.0));
    assert_eq!(file.value("general.architecture").text(), "llama");
    assert_eq!(file.value("general.name").text(), "Tiny");
    assert_eq!(file.value("general.quantization_version"), &Value::U32(2));
}
