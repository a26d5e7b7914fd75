//! What a format cannot hold is refused before anything is written, with numbers and a way out.

use std::fs;

use gptq_core::Bits;
use gptq_models::{ConvertOptions, Target, convert};
use gptq_pack::{Format, ZeroPointFormat};
use gptq_tests::{ModelFiles, assert_says, copy_folder, file_names, fixture, read_json};
use serde_json::json;

use crate::{Folder, open, refused, rounded, try_convert};

#[test]
fn what_awq_cannot_hold_is_named_with_the_number_of_layers() {
    for (name, words) in [
        ("b3_g32_sym", &["14 of 14 layers", "bits", "3"][..]),
        ("b8_gm1_sym", &["14 of 14 layers", "bits", "8"]),
        ("b4_g32_sym_act", &["of 14 layers", "g_idx", "--to dense"]),
        ("b4_g32_sym_dynamic", &["of 13 layers", "bits"]),
    ] {
        let source = fixture(&format!("checkpoints/{name}"));
        let error = refused(&source, Target::Packed(Format::Awq));
        assert_says(&error, words);
        assert_says(
            &error,
            &["model.layers.", "Nothing was written", &source.display().to_string()],
        );
        // Not with a loss either.
        let lossy = try_convert(&open(&source), Target::Packed(Format::Awq), true);
        assert_eq!(lossy.err(), Some(error));
    }
}

#[test]
fn what_marlin_cannot_hold_is_named() {
    for name in ["b4_g32_asym", "b2_g32_sym", "b4_g32_sym"] {
        let source = fixture(&format!("checkpoints/{name}"));
        let error = refused(&source, Target::Packed(Format::Marlin));
        assert_says(&error, &["marlin", "14 of 14 layers"]);
    }
}

#[test]
fn planes_are_not_written() {
    let source = fixture("checkpoints/b4_g32_sym");
    assert_says(&refused(&source, Target::Packed(Format::GptqP)), &["gptq_p", "not written"]);
}

#[test]
fn a_dense_model_is_sent_to_quantize() {
    for target in [Target::Packed(Format::Awq), Target::Dense(None)] {
        assert_says(&refused(&fixture("arch/llama"), target), &["gptq quantize", "rtn"]);
        // A config alone makes no packed layer.
        let dir = tempfile::tempdir().unwrap();
        let mut files = ModelFiles::of("arch/llama");
        files.config["quantization_config"] = json!({"quant_method": "gptq", "bits": 4});
        files.write(dir.path());
        assert_says(&refused(dir.path(), target), &["no packed layers", "gptq quantize"]);
    }
}

#[test]
fn zero_points_of_0_do_not_fit_v1_and_are_counted() {
    let source = zeros_of_0();
    let error = refused(&source.dir, Target::Packed(Format::Gptq));
    assert_says(&error, &["zero points are 0", "--to gptq_v2", "--lossy", "of 14 layers"]);
}

/// An asymmetric model some of whose zero points are 0.
pub(crate) fn zeros_of_0() -> Folder {
    rounded(&fixture("arch/llama"), Bits::B2, 8, false, ZeroPointFormat::GptqV2)
}

#[test]
fn half_precision_weights_lose_something_and_say_how_much() {
    let source = fixture("checkpoints/b4_g32_sym");
    let error = refused(&source, Target::Dense(None));
    assert_says(&error, &["dense BF16", "14 of 14 layers", "weights change", "--dtype f32"]);
}

#[test]
fn a_false_name_is_refused_and_can_be_overridden() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = ModelFiles::of("checkpoints/b4_g32_sym");
    for key in ["format", "checkpoint_format"] {
        files.config["quantization_config"][key] = json!("gptq_v2");
    }
    files.write(dir.path());
    let target = Target::Packed(Format::GptqV2);
    assert_says(&refused(dir.path(), target), &["gptq_v2", "--zero-points gptq"]);
    let checkpoint = open(dir.path()).with_zero_points(Some(ZeroPointFormat::Gptq));
    let (out, report) = try_convert(&checkpoint, target, false).unwrap();
    assert_eq!((&report.from[..], &report.to[..]), ("gptq", "gptq_v2"));
    assert_eq!(crate::logits(&out.dir), crate::logits(&fixture("checkpoints/b4_g32_sym")));
}

#[test]
fn a_layer_that_lies_about_its_shape_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = ModelFiles::of("checkpoints/b4_g32_sym");
    files.tensor("model.layers.1.mlp.up_proj.scales").shape = vec![96, 2];
    files.write(dir.path());
    let error = refused(dir.path(), Target::Packed(Format::CompressedTensors));
    assert_says(&error, &["model.layers.1.mlp.up_proj", "scales", "[96, 2]", "[2, 96]"]);
}

#[test]
fn an_output_that_is_there_is_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("thesis.tex"), "years of work").unwrap();
    let source = open(&fixture("checkpoints/b4_g32_sym"));
    let target = Target::Packed(Format::Awq);
    let error = convert(&source, target, &ConvertOptions::default(), &out, &mut ()).unwrap_err();
    assert_says(&error.to_string(), &["already exists"]);
    assert_eq!(file_names(&out), ["thesis.tex"]);
    // Nor is the source an output.
    let copy = parent.path().join("model");
    copy_folder(&fixture("checkpoints/b4_g32_sym"), &copy);
    let before = read_json(&copy.join("config.json"));
    let error = convert(&open(&copy), target, &ConvertOptions::default(), &copy, &mut ());
    assert_says(&error.unwrap_err().to_string(), &["already exists"]);
    assert_eq!(read_json(&copy.join("config.json")), before);
    assert_eq!(file_names(parent.path()), ["model", "out"]);
}
