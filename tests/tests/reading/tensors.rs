//! Tensors that others store more widely than needed, or needlessly.

use gptq_tests::{ModelFiles, Stored, assert_says, fixture};
use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::json;

use crate::{changed, found, logits};

const MODEL: &str = "checkpoints/b4_g32_sym_act";
const LAYERS: [(&str, usize); 7] = [
    ("self_attn.q_proj", 64),
    ("self_attn.k_proj", 32),
    ("self_attn.v_proj", 32),
    ("self_attn.o_proj", 64),
    ("mlp.gate_proj", 96),
    ("mlp.up_proj", 96),
    ("mlp.down_proj", 64),
];

fn add_biases(m: &mut ModelFiles, value: f32) {
    for block in 0..2 {
        for (name, outs) in LAYERS {
            let bytes = f16::from_f32(value).to_le_bytes().repeat(outs);
            let bias = Stored { dtype: Dtype::F16, shape: vec![outs], bytes };
            m.tensors.insert(format!("model.layers.{block}.{name}.bias"), bias);
        }
    }
}

#[test]
fn biases_of_zeros_change_nothing_and_are_mentioned() {
    let dir = changed(MODEL, |m| add_biases(m, 0.0));
    assert_eq!(logits(dir.path(), None).unwrap(), logits(&fixture(MODEL), None).unwrap());
    let findings = found(dir.path()).findings.join("\n");
    assert_says(&findings, &["14 of 14 packed layers have a bias of zeros"]);
}

#[test]
fn biases_that_the_family_does_not_have_are_added() {
    let dir = changed(MODEL, |m| add_biases(m, 0.25));
    let got = logits(dir.path(), None).unwrap();
    // The same biases in a model whose config knows of them.
    let known = changed(MODEL, |m| {
        add_biases(m, 0.25);
        m.config["attention_bias"] = json!(true);
        m.config["mlp_bias"] = json!(true);
    });
    assert_eq!(got, logits(known.path(), None).unwrap());
    assert_ne!(got, logits(&fixture(MODEL), None).unwrap());
}

fn each(m: &mut ModelFiles, suffix: &str, change: impl Fn(&mut Stored)) {
    let those = m.tensors.iter_mut().filter(|(name, _)| name.ends_with(suffix));
    those.for_each(|(_, stored)| change(stored));
}

#[test]
fn group_indices_of_64_bits_are_read() {
    let dir = changed(MODEL, |m| {
        each(m, ".g_idx", |t| {
            let narrow = t.bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b));
            t.bytes = narrow.flat_map(|v| i64::from(v).to_le_bytes()).collect();
            t.dtype = Dtype::I64;
        });
    });
    assert_eq!(logits(dir.path(), None).unwrap(), logits(&fixture(MODEL), None).unwrap());
}

#[test]
fn a_group_index_beyond_32_bits_is_named() {
    let name = "model.layers.0.mlp.up_proj.g_idx";
    let dir = changed(MODEL, |m| {
        let t = m.tensor(name);
        t.bytes = (0..64).flat_map(|i: i64| (i << 40).to_le_bytes()).collect();
        t.dtype = Dtype::I64;
    });
    let error = logits(dir.path(), None).unwrap_err();
    assert_says(&error, &[name, "entry 1 is 1099511627776"]);
}

#[test]
fn a_missing_g_idx_means_groups_in_order() {
    let name = "checkpoints/b4_g32_sym";
    let dir = changed(name, |m| m.tensors.retain(|name, _| !name.ends_with(".g_idx")));
    assert_eq!(logits(dir.path(), None).unwrap(), logits(&fixture(name), None).unwrap());
}

#[test]
fn scales_of_every_float_type_are_read() {
    let dir = changed(MODEL, |m| {
        each(m, ".scales", |t| {
            let halves = t.bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b));
            t.bytes = halves.flat_map(|v| v.to_f32().to_le_bytes()).collect();
            t.dtype = Dtype::F32;
        });
    });
    assert_eq!(logits(dir.path(), None).unwrap(), logits(&fixture(MODEL), None).unwrap());
    assert_says(&found(dir.path()).findings.join("\n"), &["14 of 14 layers have F32 scales"]);
    let round = |v: f16| bf16::from_f32(v.to_f32());
    let coarse = |t: &mut Stored, widen: bool| {
        let halves = t.bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b));
        let coarse = halves.map(round);
        t.bytes = match widen {
            true => coarse.flat_map(|v| f16::from_f32(v.to_f32()).to_le_bytes()).collect(),
            false => coarse.flat_map(bf16::to_le_bytes).collect(),
        };
        t.dtype = if widen { Dtype::F16 } else { Dtype::BF16 };
    };
    let [a, b] =
        [true, false].map(|widen| changed(MODEL, |m| each(m, ".scales", |t| coarse(t, widen))));
    assert_eq!(logits(a.path(), None).unwrap(), logits(b.path(), None).unwrap());
}

#[test]
fn a_width_that_the_shapes_deny_is_named_with_the_width_that_they_fit() {
    let dir = changed(MODEL, |m| m.config["quantization_config"]["bits"] = json!(8));
    let error = logits(dir.path(), None).unwrap_err();
    let file = dir.path().join("model.safetensors").display().to_string();
    let layer = "model.layers.0.self_attn.q_proj";
    assert_says(&error, &[&file, layer, "qweight", "[8, 64]", "[16, 64]", "bits 8", "fit bits 4"]);
}
