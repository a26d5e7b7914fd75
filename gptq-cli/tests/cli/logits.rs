//! `gptq logits`: the numbers of the reference implementation, from ids of either width.

use std::path::Path;

use safetensors::Dtype;

use crate::{Ran, Stored, args, fixture, gptq, read_tensors, write_tensors};

fn logits(model: &Path, ids: &Path, out: &Path) -> Ran {
    gptq(args!["logits", model, "--ids", ids, "--out", out, "--json"])
}

/// Runs a model of the fixtures on its own ids and compares.
fn check(name: &str, tolerance: f32, wide: bool) {
    let model = fixture(name);
    let expected = read_tensors(&model.join("expected.safetensors"));
    let dir = tempfile::tempdir().unwrap();
    let (ids, out) = (dir.path().join("ids.safetensors"), dir.path().join("out.safetensors"));
    let given = &expected["input_ids"];
    let narrow: Vec<i32> = given.values();
    let widened: Vec<i64> = narrow.iter().map(|&id| id.into()).collect();
    let widened = Stored::new(Dtype::I64, &given.shape, &widened);
    write_tensors(&ids, &[("input_ids", if wide { &widened } else { given })]);

    let said = logits(&model, &ids, &out).json();
    assert_eq!(
        (&said["batch"], &said["tokens"], &said["vocab"]),
        (&2.into(), &40.into(), &320.into())
    );
    assert_eq!(said["out"], out.display().to_string());
    let found = &read_tensors(&out)["logits"];
    let want = &expected["logits"];
    assert_eq!((found.dtype, &found.shape), (Dtype::F32, &want.shape));
    let (found, want): (Vec<f32>, Vec<f32>) = (found.values(), want.values());
    let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    let worst = found.iter().zip(&want).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst <= tolerance * largest, "{name}: {worst} of {largest}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing else is left");
}

#[test]
fn ids_of_32_bits_give_the_logits_of_transformers() {
    for name in ["arch/llama", "arch/llama3-rope", "arch/llama-yarn", "arch/llama-linear-rope"] {
        check(name, 2e-4, false);
    }
}

#[test]
fn ids_of_64_bits_give_the_logits_of_transformers() {
    check("arch/llama", 2e-4, true);
}

#[test]
fn checkpoints_of_gptqmodel_give_the_logits_of_an_independent_reader() {
    for name in ["b2_g32_sym", "b3_g32_sym", "b4_g32_sym_act", "b4_g32_asym_v2", "b8_gm1_sym"] {
        check(&format!("checkpoints/{name}"), 2e-4, false);
    }
}

/// The message for ids that cannot be run.
fn refused(tensor: &str, ids: &Stored, words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("ids.safetensors"), dir.path().join("out.safetensors"));
    write_tensors(&path, &[(tensor, ids)]);
    let ran = logits(&fixture("arch/llama"), &path, &out);
    ran.fails(1, &[&["ids.safetensors"], words].concat());
    assert!(!out.exists());
}

#[test]
fn ids_outside_the_vocabulary_are_named_with_row_and_position() {
    let ids = Stored::new(Dtype::I32, &[2, 3], &[1, 2, 3, 4, 320, 6]);
    refused("input_ids", &ids, &["row 1", "token id 320", "position 1", "vocabulary of 320"]);
}

#[test]
fn ids_that_are_none_are_named() {
    let negative = Stored::new(Dtype::I64, &[1, 2], &[1i64, -1]);
    refused("input_ids", &negative, &["holds -1"]);
    let beyond = Stored::new(Dtype::I64, &[1, 2], &[1i64, 1 << 40]);
    refused("input_ids", &beyond, &["holds 1099511627776"]);
    let empty = Stored::new(Dtype::I32, &[1, 0], &[0i32; 0]);
    refused("input_ids", &empty, &["no tokens"]);
}

#[test]
fn ids_of_another_name_type_or_shape_are_refused() {
    let ids = Stored::new(Dtype::I32, &[1, 2], &[1, 2]);
    refused("ids", &ids, &["input_ids", "[batch, tokens]"]);
    let floats = Stored::new(Dtype::F32, &[1, 2], &[1f32, 2.0]);
    refused("input_ids", &floats, &["F32", "I32 or I64"]);
    let flat = Stored::new(Dtype::I32, &[2], &[1, 2]);
    refused("input_ids", &flat, &["[2]", "two dimensions"]);
}

#[test]
fn a_file_of_ids_that_is_no_safetensors_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("ids.json"), dir.path().join("out.safetensors"));
    std::fs::write(&path, "[[1, 2, 3]]").unwrap();
    let ran = logits(&fixture("arch/llama"), &path, &out);
    ran.fails(1, &["ids.json", "is not a safetensors file"]);
}
