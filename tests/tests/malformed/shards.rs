//! Weight files that are cut, lie in their headers, or do not belong together.

use std::{fs, path::Path};

use gptq_tests::{INDEX, ModelFiles, SHARDS, assert_says, read_json, write_raw};
use serde_json::json;
use tempfile::TempDir;

use crate::{llama, refused, unloadable};

/// `arch/llama` with another weight file.
fn with_weights(write: impl FnOnce(&Path)) -> TempDir {
    let dir = llama(|_| {});
    write(&dir.path().join("model.safetensors"));
    dir
}

/// Refused to quantize and to load, naming the weight file.
fn weights_refused(write: impl FnOnce(&Path)) -> String {
    let dir = with_weights(write);
    let error = refused(dir.path());
    assert_eq!(unloadable(dir.path()), error);
    assert_says(&error, &["model.safetensors"]);
    error
}

#[test]
fn a_truncated_file_is_named_with_its_size() {
    for length in [100_000, 200_001] {
        let error = weights_refused(|path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..length]).unwrap();
        });
        assert_says(&error, &[&format!("{length} bytes"), "fetch it again"]);
    }
}

#[test]
fn an_empty_file_is_named() {
    assert_says(&weights_refused(|path| fs::write(path, b"").unwrap()), &["0 bytes"]);
}

#[test]
fn a_header_that_is_cut_short_is_named() {
    assert_says(&weights_refused(|path| fs::write(path, b"\x10\0\0").unwrap()), &["3 bytes"]);
}

#[test]
fn a_header_length_beyond_the_file_is_refused() {
    for length in [1_000u64, 1 << 40, u64::MAX] {
        let error = weights_refused(|path| {
            fs::write(path, [&length.to_le_bytes()[..], b"{}      "].concat()).unwrap();
        });
        assert_says(&error, &["16 bytes"]);
    }
}

#[test]
fn a_header_that_is_not_json_is_refused() {
    let error = weights_refused(|path| {
        fs::write(path, [&8u64.to_le_bytes()[..], b"not json"].concat()).unwrap();
    });
    assert_says(&error, &["is not a whole safetensors file"]);
}

#[test]
fn a_git_lfs_pointer_is_refused() {
    let pointer = "version https://git-lfs.github.com/spec/v1\nsize 207576\n";
    assert_says(&weights_refused(|path| fs::write(path, pointer).unwrap()), &["fetch it again"]);
}

/// A file whose second of two tensors of 8 bytes claims other bytes.
fn lying(offsets: [u64; 2], data: usize) -> String {
    weights_refused(|path| {
        let tensor = |offsets| json!({"dtype": "F16", "shape": [4], "data_offsets": offsets});
        let header = json!({"a.weight": tensor([0, 8]), "b.weight": tensor(offsets)});
        write_raw(path, &header, &vec![0; data]);
    })
}

#[test]
fn tensors_that_overlap_are_refused_by_name() {
    assert_says(&lying([4, 12], 12), &["b.weight"]);
}

#[test]
fn a_gap_between_tensors_is_refused_by_name() {
    assert_says(&lying([16, 24], 24), &["b.weight"]);
}

#[test]
fn offsets_past_the_end_are_refused() {
    assert_says(&lying([8, 16], 12), &["bytes"]);
}

#[test]
fn offsets_that_run_backwards_are_refused_by_name() {
    assert_says(&lying([8, 0], 8), &["b.weight"]);
}

#[test]
fn bytes_that_no_tensor_owns_are_refused() {
    assert_says(&lying([8, 16], 40), &["bytes"]);
}

#[test]
fn a_shape_that_does_not_match_its_bytes_is_refused() {
    for shape in [json!([5]), json!([0]), json!([u32::MAX, u32::MAX, u32::MAX, 4])] {
        weights_refused(|path| {
            let header = json!({"a.weight": {"dtype": "F16", "shape": shape,
                "data_offsets": [0, 8]}});
            write_raw(path, &header, &[0; 8]);
        });
    }
}

#[test]
fn an_unknown_element_type_is_refused() {
    let error = weights_refused(|path| {
        let header = json!({"a.weight": {"dtype": "Q4", "shape": [4], "data_offsets": [0, 8]}});
        write_raw(path, &header, &[0; 8]);
    });
    assert_says(&error, &["Q4"]);
}

#[test]
fn a_folder_without_safetensors_says_what_to_do() {
    let dir = llama(|_| {});
    let weights = dir.path().join("model.safetensors");
    fs::rename(weights, dir.path().join("pytorch_model.bin")).unwrap();
    let folder = dir.path().display().to_string();
    assert_says(&refused(dir.path()), &[&folder, ".bin", "converted to safetensors"]);
}

#[test]
fn several_files_without_an_index_are_refused_with_their_number() {
    let dir = llama(|_| {});
    let weights = dir.path().join("model.safetensors");
    fs::copy(&weights, dir.path().join("a.safetensors")).unwrap();
    fs::rename(&weights, dir.path().join("b.safetensors")).unwrap();
    assert_says(&refused(dir.path()), &["2 .safetensors files", INDEX]);
}

/// Two shards, with an index that a test may change.
fn sharded(change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    ModelFiles::of("arch/llama").write_sharded(dir.path(), "model.layers.1");
    let path = dir.path().join(INDEX);
    let mut index = read_json(&path);
    change(index["weight_map"].as_object_mut().unwrap());
    fs::write(path, index.to_string()).unwrap();
    dir
}

#[test]
fn an_index_that_names_a_missing_file_is_refused() {
    let dir = sharded(|map| {
        map.insert("lm_head.weight".into(), json!("model-00003-of-00003.safetensors"));
    });
    assert_says(&refused(dir.path()), &["cannot open", "model-00003-of-00003.safetensors"]);
}

#[test]
fn an_index_that_leads_out_of_the_folder_is_refused() {
    for path in ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "a\\b", ""] {
        let dir = sharded(|map| {
            map.insert("lm_head.weight".into(), json!(path));
        });
        let error = refused(dir.path());
        assert_says(&error, &[INDEX, "lm_head.weight", "not a file of this folder"]);
    }
}

#[test]
fn an_index_that_places_a_tensor_in_the_wrong_shard_is_refused() {
    let dir = sharded(|map| {
        map.insert("lm_head.weight".into(), json!(SHARDS[1]));
    });
    assert_says(&refused(dir.path()), &[INDEX, "lm_head.weight", SHARDS[1], "not there"]);
}

#[test]
fn an_index_that_promises_a_tensor_nobody_has_is_refused() {
    let dir = sharded(|map| {
        map.insert("model.layers.9.mlp.up_proj.weight".into(), json!(SHARDS[0]));
    });
    assert_says(&refused(dir.path()), &[INDEX, "model.layers.9.mlp.up_proj.weight"]);
}

#[test]
fn an_index_without_a_map_is_refused() {
    for text in ["{}", "[]", r#"{"weight_map": {}}"#, r#"{"weight_map": 3}"#] {
        let dir = sharded(|_| {});
        fs::write(dir.path().join(INDEX), text).unwrap();
        assert_says(&refused(dir.path()), &[INDEX, "weight_map"]);
    }
    let dir = sharded(|_| {});
    fs::write(dir.path().join(INDEX), "{").unwrap();
    assert_says(&refused(dir.path()), &[INDEX, "is not JSON"]);
}

#[test]
fn a_tensor_in_two_shards_is_refused_with_both_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = ModelFiles::of("arch/llama");
    files.write_sharded(dir.path(), "model.layers.1");
    // The second shard again, with a tensor of the first beside its own.
    let second = files.tensors.split_off("model.layers.1");
    let mut both = second;
    both.insert("lm_head.weight".into(), files.tensors["lm_head.weight"].clone());
    gptq_tests::write_tensors(&dir.path().join(SHARDS[1]), &both);
    assert_says(&refused(dir.path()), &["lm_head.weight", SHARDS[0], SHARDS[1]]);
}

#[test]
fn a_truncated_shard_is_named() {
    let dir = sharded(|_| {});
    let path = dir.path().join(SHARDS[1]);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let error = refused(dir.path());
    assert_says(&error, &[SHARDS[1], &format!("{} bytes", bytes.len() - 1)]);
}
