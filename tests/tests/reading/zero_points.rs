//! Conventions of zero points: declared rightly, wrongly, and not at all.

use gptq_core::{ActOrder, Bits, GroupSize, QuantConfig};
use gptq_kernels::CpuBackend;
use gptq_models::{Checkpoint, Method, QuantizeOptions, quantize};
use gptq_pack::ZeroPointFormat;
use gptq_tests::{ModelFiles, assert_says, fixture};
use tempfile::TempDir;

use crate::{changed, found, logits};

/// A fixture that claims another format.
fn claims(name: &str, format: &str) -> TempDir {
    changed(name, |m| {
        for key in ["format", "checkpoint_format"] {
            m.config["quantization_config"][key] = format.into();
        }
    })
}

#[test]
fn every_fixture_is_what_it_says() {
    for (name, format) in [
        ("b2_g32_sym", "gptq"),
        ("b3_g32_sym", "gptq"),
        ("b4_g32_asym", "gptq"),
        ("b4_g32_asym_v2", "gptq_v2"),
        ("b4_g32_sym", "gptq"),
        ("b4_g32_sym_act", "gptq"),
        ("b4_g32_sym_dynamic", "gptq"),
        ("b8_gm1_sym", "gptq"),
    ] {
        let said = found(&fixture(&format!("checkpoints/{name}"))).zero_points.unwrap();
        assert_eq!((said.declared, said.found), (format, Some(format)), "{name}: {said:?}");
    }
}

#[test]
fn a_false_name_is_refused_with_the_evidence_and_the_way_out() {
    for (name, real, claimed, evidence) in [
        ("b4_g32_sym", "gptq", "gptq_v2", "the middle of the range minus one"),
        ("b2_g32_sym", "gptq", "gptq_v2", "14 of 14 layers"),
        ("b3_g32_sym", "gptq", "gptq_v2", "model.layers.0.mlp.down_proj"),
        ("b4_g32_asym", "gptq", "gptq_v2", "steps above the stored zero points"),
        ("b4_g32_asym_v2", "gptq_v2", "gptq", "14 of 14 layers"),
    ] {
        let source = format!("checkpoints/{name}");
        let dir = claims(&source, claimed);
        let error = logits(dir.path(), None).unwrap_err();
        let way_out = format!("--zero-points {real}");
        assert_says(&error, &["checkpoint_format says", claimed, real, evidence, &way_out]);
        // Inspecting it is no failure.
        let said = found(dir.path());
        assert_eq!(said.zero_points.unwrap().found, Some(real), "{name}");
        assert_says(&said.findings[0], &[claimed, real]);
        // Read as what it is, it is the original.
        let read = logits(dir.path(), Some(real.parse().unwrap())).unwrap();
        assert_eq!(read, logits(&fixture(&source), None).unwrap(), "{name}");
    }
}

#[test]
fn asymmetric_layers_of_every_width_speak_up_or_say_nothing() {
    for format in [ZeroPointFormat::Gptq, ZeroPointFormat::GptqV2] {
        for bits in Bits::ALL {
            for group in [32, -1] {
                let (config, method) = (
                    QuantConfig {
                        bits,
                        group_size: GroupSize::from_file(group).unwrap(),
                        sym: false,
                        act_order: ActOrder::Natural,
                        ..QuantConfig::default()
                    },
                    Method::Rtn,
                );
                let options =
                    QuantizeOptions { config, method, format: format.into(), ..Default::default() };
                let parent = tempfile::tempdir().unwrap();
                let out = parent.path().join("out");
                let source = Checkpoint::open(&fixture("arch/llama")).unwrap();
                quantize(&source, &[], &CpuBackend::new(), &options, &out, &mut ()).unwrap();
                let said = found(&out).zero_points.unwrap();
                let what = format!("{format} {bits:?} group {group}: {said:?}");
                assert!(said.found.is_none_or(|found| found == format.as_str()), "{what}");
                // Steps of eight bits are too fine for layers as small as these.
                assert!(said.found.is_some() || bits == Bits::B8, "{what}");
                assert!(logits(&out, None).is_ok(), "{what}");
            }
        }
    }
}

/// Overwrites the first word of a layer's zero points.
fn first_word(m: &mut ModelFiles, layer: &str, word: u32) {
    let qzeros = m.tensor(&format!("{layer}.qzeros"));
    qzeros.bytes[..4].copy_from_slice(&word.to_le_bytes());
}

#[test]
fn zero_points_that_auto_gptq_wiped_out_are_named_with_their_number() {
    let layer = "model.layers.1.mlp.down_proj";
    // A zero point of 0 in the third field of eight: -1, shifted, over all that follow.
    let dir = changed("checkpoints/b4_g32_asym", |m| first_word(m, layer, 0xffff_ff76));
    let error = logits(dir.path(), None).unwrap_err();
    assert_says(&error, &[layer, "5 zero points in 1 words of 1 layers", "AutoGPTQ"]);
    assert_says(&found(dir.path()).findings.join("\n"), &[layer, "5 zero points"]);
    // Whoever insists reads what is there.
    assert!(logits(dir.path(), Some(ZeroPointFormat::Gptq)).is_ok());
}

#[test]
fn single_fields_of_minus_one_are_not_taken_for_damage() {
    let layer = "model.layers.1.mlp.down_proj";
    // GPTQModel keeps fields apart: a stored -1 may stand below others.
    let dir = changed("checkpoints/b4_g32_asym", |m| first_word(m, layer, 0xff77_7f76));
    assert!(logits(dir.path(), None).is_ok());
    assert_eq!(found(dir.path()).findings, [""; 0]);
}

#[test]
fn three_bit_zero_points_with_exchanged_constants_are_put_right() {
    let name = "checkpoints/b3_g32_sym";
    let dir = changed(name, |m| {
        for (tensor, stored) in &mut m.tensors {
            if tensor.ends_with(".qzeros") {
                let lane = [0u32, 0xb6db_6db7, 0x4924_9249].map(u32::to_le_bytes).concat();
                stored.bytes = lane.repeat(stored.bytes.len() / lane.len());
            }
        }
    });
    assert_eq!(logits(dir.path(), None).unwrap(), logits(&fixture(name), None).unwrap());
    assert_says(&found(dir.path()).findings.join("\n"), &["14 of 14", "exchanged"]);
}
