//! A → B → A is A, bit for bit, wherever B can hold A; and B computes what A computes.

use std::path::Path;

use gptq_core::Bits;
use gptq_models::quantization_config;
use gptq_pack::{Format, ZeroPointFormat};
use gptq_tests::{fixture, read_tensors};

use crate::{logits, open, rounded, to, wide_llama};

use Format::{Awq, CompressedTensors, Gptq, GptqV2, Marlin};

/// There and back again.
fn round_trip(a: &Path, b: Format) {
    let what = format!("{} by way of {b}", a.display());
    let format = quantization_config(&open(a)).unwrap().unwrap().format;
    let there = to(a, b);
    assert_eq!(quantization_config(&open(&there.dir)).unwrap().unwrap().format, b, "{what}");
    assert_eq!(logits(&there.dir), logits(a), "{what}");
    let back = to(&there.dir, format);
    let (before, after) = (
        read_tensors(&a.join("model.safetensors")),
        read_tensors(&back.dir.join("model.safetensors")),
    );
    assert!(before.keys().eq(after.keys()), "{what}");
    for (name, tensor) in &before {
        assert!(after[name] == *tensor, "{what}: {name} changed");
    }
    assert_eq!(logits(&back.dir), logits(a), "{what}");
}

#[test]
fn checkpoints_of_gptqmodel_survive_every_format_that_holds_them() {
    for (name, formats) in [
        ("b2_g32_sym", &[Gptq, GptqV2, CompressedTensors][..]),
        ("b3_g32_sym", &[GptqV2, CompressedTensors]),
        ("b4_g32_asym", &[GptqV2, Awq, CompressedTensors]),
        ("b4_g32_asym_v2", &[Gptq, GptqV2, Awq, CompressedTensors]),
        ("b4_g32_sym", &[GptqV2, Awq, CompressedTensors]),
        ("b4_g32_sym_act", &[GptqV2, CompressedTensors]),
        ("b4_g32_sym_dynamic", &[GptqV2, CompressedTensors]),
        ("b8_gm1_sym", &[GptqV2, CompressedTensors]),
    ] {
        for &format in formats {
            round_trip(&fixture(&format!("checkpoints/{name}")), format);
        }
    }
}

#[test]
fn our_own_checkpoints_survive_every_format_that_holds_them() {
    let source = fixture("arch/llama");
    for (bits, group, sym, formats) in [
        (Bits::B2, 32, false, &[CompressedTensors][..]),
        (Bits::B3, 24, true, &[Gptq, CompressedTensors]),
        (Bits::B4, 32, false, &[Awq, CompressedTensors]),
        (Bits::B4, -1, true, &[Gptq, Awq, CompressedTensors]),
        (Bits::B8, 32, false, &[CompressedTensors]),
    ] {
        let a = rounded(&source, bits, group, sym, ZeroPointFormat::GptqV2);
        for &format in formats {
            round_trip(&a.dir, format);
        }
    }
}

#[test]
fn layers_large_enough_survive_marlin() {
    let source = wide_llama();
    for group in [128, -1] {
        let a = rounded(source.path(), Bits::B4, group, true, ZeroPointFormat::Gptq);
        round_trip(&a.dir, Marlin);
        // Formats without an own copy of the grid go among themselves as well.
        let marlin = to(&a.dir, Marlin);
        for format in [Awq, CompressedTensors, GptqV2] {
            round_trip(&marlin.dir, format);
        }
    }
}

#[test]
fn awq_and_compressed_tensors_turn_into_each_other() {
    let awq = to(&fixture("checkpoints/b4_g32_asym"), Awq);
    round_trip(&awq.dir, CompressedTensors);
    let compressed = to(&fixture("checkpoints/b4_g32_asym"), CompressedTensors);
    round_trip(&compressed.dir, Awq);
}
