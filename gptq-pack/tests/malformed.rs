//! Every way in which tensors, matrices and configs can lie, and the error that says so.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic like tests")]

use std::borrow::Cow;

use gptq_core::{Bits, GroupSize, QuantizedMatrix};
use gptq_pack::{
    CheckpointConfig, Dtype, DynamicRules, Error, LinearTensors, PackSpec, PackedLinear,
    PackedLinearRef, RawTensor, ZeroPointFormat, names::Part,
};
use ndarray::Array2;
use serde_json::{Value, json};

/// 40 outputs, 64 inputs in two groups.
fn matrix() -> QuantizedMatrix {
    QuantizedMatrix {
        bits: Bits::B4,
        codes: Array2::from_shape_fn((40, 64), |(r, c)| ((r * 7 + c) % 16) as u8),
        scales: Array2::from_elem((40, 2), 0.25),
        zeros: Array2::from_elem((40, 2), 8),
        g_idx: (0..64).map(|c| c / 32).collect(),
    }
}

fn spec() -> PackSpec {
    PackSpec {
        in_features: 64,
        out_features: 40,
        bits: Some(Bits::B4),
        group_size: GroupSize::from_file(32).unwrap(),
        zero_format: ZeroPointFormat::Gptq,
    }
}

fn i32s(shape: &[usize], value: i32) -> RawTensor<'static> {
    let bytes = value.to_le_bytes().repeat(shape.iter().product());
    RawTensor { dtype: Dtype::I32, shape: shape.to_vec(), bytes: bytes.into() }
}

fn f32s(shape: &[usize], value: f32) -> RawTensor<'static> {
    let bytes = value.to_le_bytes().repeat(shape.iter().product());
    RawTensor { dtype: Dtype::F32, shape: shape.to_vec(), bytes: bytes.into() }
}

fn tensors() -> LinearTensors<'static> {
    LinearTensors {
        qweight: i32s(&[8, 40], 0x1234_5678),
        qzeros: i32s(&[2, 5], 0x7777_7777),
        scales: f32s(&[2, 40], 0.5),
        g_idx: Some(i32s(&[64], 1)),
        bias: Some(f32s(&[40], 0.0)),
    }
}

fn read(
    change: impl FnOnce(&mut LinearTensors<'static>, &mut PackSpec),
) -> Result<PackedLinear, Error> {
    let (mut tensors, mut spec) = (tensors(), spec());
    change(&mut tensors, &mut spec);
    PackedLinearRef::from_tensors(&tensors, &spec)
}

fn message(result: Result<PackedLinear, Error>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn the_unharmed_layer_is_read() {
    let layer = read(|_, _| {}).unwrap();
    assert_eq!(layer.bias(), Some(&[0.0; 40][..]), "an all-zero bias is allowed");
    assert!(!layer.has_trivial_g_idx());
}

#[test]
fn wrong_dtypes() {
    let error = message(read(|t, _| t.qweight.dtype = Dtype::F32));
    assert_eq!(error, "qweight has dtype F32, but must be I32");
    let error = message(read(|t, _| t.qzeros.dtype = Dtype::Other));
    assert_eq!(error, "qzeros has dtype other than I32, I64, F16, BF16 and F32, but must be I32");
    let error = message(read(|t, _| t.scales.dtype = Dtype::I32));
    assert_eq!(error, "scales has dtype I32, but must be F16, BF16 or F32");
    let error = message(read(|t, _| t.g_idx.as_mut().unwrap().dtype = Dtype::BF16));
    assert_eq!(error, "g_idx has dtype BF16, but must be I32");
    let error = message(read(|t, _| t.bias = Some(i32s(&[40], 0))));
    assert_eq!(error, "bias has dtype I32, but must be F16, BF16 or F32");
}

#[test]
fn wrong_shapes() {
    let error = message(read(|t, _| t.qweight = i32s(&[6, 40], 0)));
    assert_eq!(
        error,
        "qweight has shape [6, 40], expected [8, 40]: rows are ⌈in_features · bits / 32⌉, columns \
         out_features"
    );
    let part = |result: Result<PackedLinear, Error>| match result.unwrap_err() {
        Error::Shape { part, .. } => part,
        other => panic!("{other}"),
    };
    assert_eq!(part(read(|_, s| s.in_features = 128)), Part::QWeight);
    assert_eq!(part(read(|_, s| s.out_features = 64)), Part::QWeight);
    assert_eq!(part(read(|_, s| s.bits = Some(Bits::B3))), Part::QWeight);
    assert_eq!(part(read(|_, s| s.group_size = GroupSize::PerChannel)), Part::QZeros);
    assert_eq!(part(read(|t, _| t.qzeros = i32s(&[10], 0))), Part::QZeros);
    assert_eq!(part(read(|t, _| t.scales = f32s(&[40, 2], 1.0))), Part::Scales);
    assert_eq!(part(read(|t, _| t.g_idx = Some(i32s(&[63], 0)))), Part::GIdx);
    assert_eq!(part(read(|t, _| t.bias = Some(f32s(&[1, 40], 0.0)))), Part::Bias);
}

#[test]
fn bytes_that_are_not_the_shapes() {
    let error = message(read(|t, _| t.scales.bytes = Cow::Borrowed(&[0; 7])));
    assert_eq!(error, "scales has 7 bytes, but shape [2, 40] in F32 needs 320");

    let wide = usize::MAX / 2;
    let error = read(|t, s| {
        s.out_features = wide;
        t.qweight.shape = vec![8, wide];
    });
    assert_eq!(error.unwrap_err(), Error::TooLarge { part: Part::QWeight, shape: vec![8, wide] });
}

#[test]
fn nothing_to_read() {
    let error = message(read(|_, s| s.in_features = 0));
    assert!(error.starts_with("the layer has 40 outputs, 0 inputs"), "{error}");
}

#[test]
fn bits_from_shapes() {
    assert_eq!(read(|_, s| s.bits = None).unwrap().bits(), Bits::B4);
    let error = read(|t, s| {
        s.bits = None;
        t.qweight = i32s(&[7, 40], 0);
    });
    assert!(message(error).starts_with("bits is not stated and the shapes fit []"));

    let tiny = LinearTensors {
        qweight: i32s(&[1, 2], 0),
        qzeros: i32s(&[1, 1], 0),
        scales: f32s(&[1, 2], 1.0),
        g_idx: None,
        bias: None,
    };
    let (bits, group_size) = (None, GroupSize::PerChannel);
    let spec = PackSpec { in_features: 4, out_features: 2, bits, group_size, ..spec() };
    let error = message(PackedLinearRef::from_tensors(&tiny, &spec));
    assert!(error.starts_with("bits is not stated and the shapes fit [2, 3, 4, 8]"), "{error}");
}

#[test]
fn group_indices() {
    let last = read(|t, _| t.g_idx = Some(i32s(&[64], -1))).unwrap();
    assert!(last.g_idx().iter().all(|&g| g == 1), "-1 is the last group");
    for wrong in [2, -3, i32::MAX, i32::MIN] {
        let error = message(read(|t, _| t.g_idx = Some(i32s(&[64], wrong))));
        assert_eq!(error, format!("g_idx of input 0 is {wrong}, but the layer has groups 0 to 1"));
    }
}

#[test]
fn numbers_that_are_none() {
    let error = message(read(|t, _| t.scales = f32s(&[2, 40], f32::NAN)));
    assert_eq!(error, "scales holds NaN at row 0, column 0; the layer is damaged");
    let error = message(read(|t, _| t.scales = f32s(&[2, 40], 1e5)));
    assert!(error.contains("beyond half precision"), "{error}");
    let error = message(read(|t, _| t.bias = Some(f32s(&[40], f32::INFINITY))));
    assert_eq!(error, "bias holds inf at row 0, column 0; the layer is damaged");

    let mut half = [0x00, 0x3c].repeat(80);
    half[2 * 41 + 1] = 0x7c;
    let error = read(|t, _| {
        t.scales = RawTensor { dtype: Dtype::F16, shape: vec![2, 40], bytes: half.into() }
    });
    let value = f32::INFINITY;
    let expected = Error::NotFinite { part: Part::Scales, value, row: 1, column: 1 };
    assert_eq!(error.unwrap_err(), expected);
}

fn pack(
    format: ZeroPointFormat,
    change: impl FnOnce(&mut QuantizedMatrix),
) -> Result<PackedLinear, Error> {
    let mut q = matrix();
    change(&mut q);
    PackedLinear::pack(&q, format)
}

#[test]
fn matrices_that_cannot_be_packed() {
    use ZeroPointFormat::{Gptq, GptqV2};
    assert!(pack(Gptq, |_| {}).is_ok());
    let error = message(pack(GptqV2, |q| q.codes[(3, 5)] = 16));
    assert_eq!(error, "code at output 3, column 5 is 16, but 4 bits hold at most 15");
    let error = message(pack(GptqV2, |q| q.zeros[(3, 1)] = 99));
    assert_eq!(error, "zero point at output 3, column 1 is 99, but 4 bits hold at most 15");
    let error = message(pack(GptqV2, |q| q.g_idx[9] = 2));
    assert_eq!(error, "g_idx of input 9 is 2, but the layer has groups 0 to 1");
    let error = message(pack(GptqV2, |q| q.scales[(4, 1)] = f32::NAN));
    assert_eq!(error, "scales holds NaN at row 1, column 4; the layer is damaged");
    let error = message(pack(GptqV2, |q| q.scales[(4, 1)] = -7e4));
    assert!(error.starts_with("scales holds -70000 at row 1, column 4, beyond"), "{error}");
    let error = message(pack(GptqV2, |q| q.scales = Array2::ones((39, 2))));
    assert!(error.starts_with("scales has shape [39, 2], expected [40, 2]"), "{error}");
    let error = message(pack(GptqV2, |q| q.zeros = Array2::ones((40, 1))));
    assert!(error.starts_with("qzeros has shape [40, 1], expected [40, 2]"), "{error}");
    let error = message(pack(GptqV2, |q| q.g_idx.push(0)));
    assert!(error.starts_with("g_idx has shape [65], expected [64]"), "{error}");
    let error = message(pack(GptqV2, |q| q.codes = Array2::zeros((0, 64))));
    assert!(error.starts_with("the layer has 0 outputs"), "{error}");
    let error = message(pack(Gptq, |_| {}).unwrap().with_bias(&[0.0; 3]));
    assert!(error.starts_with("bias has shape [3], expected [40]"), "{error}");
}

#[test]
fn zero_points_of_zero_need_v2() {
    let change = |q: &mut QuantizedMatrix| {
        q.zeros[(7, 1)] = 0;
        q.zeros[(9, 0)] = 0;
    };
    assert!(pack(ZeroPointFormat::GptqV2, change).is_ok());
    let error = pack(ZeroPointFormat::Gptq, change).unwrap_err();
    assert_eq!(error, Error::ZeroPointAtZero { count: 2, row: 7, group: 1 });
    assert!(error.to_string().contains("write gptq_v2"), "{error}");
}

fn config(json: &Value) -> String {
    CheckpointConfig::from_json(json).unwrap_err().to_string()
}

#[test]
fn configs_that_cannot_be_understood() {
    for (json, expected) in [
        (json!([4]), "the quantization config is an array, but must be a JSON object"),
        (json!({}), "the quantization config lacks bits; state it"),
        (json!({"bits": "4"}), "bits is \"4\", but must be 2, 3, 4 or 8"),
        (json!({"bits": 4.5}), "bits is 4.5, but must be 2, 3, 4 or 8"),
        (json!({"bits": 5}), "bits is 5, but GPTQ checkpoints hold 2, 3, 4 or 8 bits"),
        (
            json!({"bits": 4, "group_size": 0}),
            "group_size is 0, but must be -1 (whole rows) or at least 1",
        ),
        (json!({"bits": 4, "Sym": 1}), "Sym is 1, but must be true or false"),
        (json!({"bits": 4, "damp_percent": "x"}), "damp_percent is \"x\", but must be a number"),
        (json!({"bits": 4, "meta": []}), "meta is [], but must be an object"),
        (
            json!({"bits": 4, "pack_dtype": "int16"}),
            "pack_dtype is \"int16\", but must be \"int32\"",
        ),
        (json!({"bits": 4, "wbits": 8}), "bits is 4, but wbits is 8; keep one of them"),
        (
            json!({"bits": 4, "sym": true, "zero_point": true}),
            "sym is true, but zero_point is true; keep one of them",
        ),
        (
            json!({"bits": 4, "format": "gptq", "checkpoint_format": "gptq_v2"}),
            "format is \"gptq\", but checkpoint_format is \"gptq_v2\"; keep one of them",
        ),
        (
            json!({"bits": 4, "quant_method": "aqlm"}),
            "quant_method is \"aqlm\", but methods that can be read are gptq, awq, \
             compressed-tensors and auto-round",
        ),
    ] {
        assert_eq!(config(&json), expected);
    }
}

#[test]
fn configs_of_other_layouts_name_the_layout() {
    for (json, key, found) in [
        (json!({"bits": 4, "quant_method": "bitblas"}), "quant_method", "bitblas"),
        (json!({"bits": 4, "checkpoint_format": "bitblas"}), "checkpoint_format", "bitblas"),
        (json!({"bits": 4, "format": "awq"}), "format", "awq"),
        (json!({"bits": 4, "version": "GGUF"}), "version", "gguf"),
    ] {
        let expected = Error::UnsupportedFormat { key: key.to_owned(), found: found.to_owned() };
        assert_eq!(CheckpointConfig::from_json(&json), Err(expected));
    }
}

#[test]
fn rules_that_cannot_be_understood() {
    let rules = |json: Value| DynamicRules::from_json(&json).unwrap_err().to_string();
    assert_eq!(rules(json!([])), "dynamic is [], but must be an object");
    let error = rules(json!({"a(": {}}));
    assert!(error.starts_with("dynamic rule \"a(\" is no regular expression"), "{error}");
    let error = rules(json!({"a": 4}));
    assert_eq!(error, "dynamic \"a\" is 4, but must be an object");
    let error = rules(json!({"a": {"sym": 4}}));
    assert_eq!(error, "sym of dynamic \"a\" is 4, but must be true or false");
    let error = rules(json!({"a": {"bits": 6}}));
    assert_eq!(error, "bits is 6, but GPTQ checkpoints hold 2, 3, 4 or 8 bits");

    let endless = DynamicRules::from_json(&json!({"(a|b|ab)*(?>c)": {}})).unwrap();
    let error = endless.resolve(&"ab".repeat(40)).unwrap_err();
    assert!(matches!(error, Error::RuleMatch { .. }), "{error}");
}
