//! A result proves itself: whatever changes in its folder is found and named.

use std::{fs, path::Path};

use gptq_core::Bits;
use gptq_models::{
    Checkpoint, ConvertOptions, EoraOptions, Finding, QuantizeOptions, Target, convert, verify,
};
use gptq_pack::Format;
use gptq_tests::{copy_folder, file_names, fixture, random_tokens, read_json};

use crate::{Run, options};

fn findings(dir: &Path, source: Option<&Path>) -> Vec<Finding> {
    verify(dir, source).unwrap().findings
}

/// A run with an adapter, so that there is a folder below the result.
fn run() -> Run {
    let eora = Some(EoraOptions { rank: 2, out: None });
    Run::with(&QuantizeOptions { eora, ..options(Bits::B4) })
}

fn flip(path: &Path, bit: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::write(path, bytes).unwrap();
}

/// The tensor that holds a byte of a safetensors file; none in its header.
fn tensor_at(path: &Path, byte: usize) -> Option<String> {
    let bytes = fs::read(path).unwrap();
    let header = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let at = byte.checked_sub(8 + header)?;
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let within = |info: &serde_json::Value| {
        let offset = |i: usize| info["data_offsets"][i].as_u64().map(|o| o as usize);
        offset(0).zip(offset(1)).is_some_and(|(from, to)| (from..to).contains(&at))
    };
    let found = json.as_object().unwrap().iter().find(|(_, info)| within(info));
    Some(found.expect("data without a gap").0.clone())
}

#[test]
fn nothing_is_found_where_nothing_changed() {
    let run = run();
    let found = verify(&run.dir, Some(&fixture("arch/llama"))).unwrap();
    assert_eq!(found.findings, []);
    assert_eq!(found.tensors, Checkpoint::open(&run.dir).unwrap().tensors().count());
    assert_eq!(found.layers, 14);
    assert_eq!(found.source_files, 2);
    // All but the report; the adapter's two files.
    assert_eq!(found.files, file_names(&run.dir).len() - 2 + 2);

    let out = run.dir.with_file_name("awq");
    let source = Checkpoint::open(&run.dir).unwrap();
    let target = Target::Packed(Format::GptqV2);
    convert(&source, target, &ConvertOptions::default(), &out, &mut ()).unwrap();
    assert_eq!(findings(&out, Some(&run.dir)), []);
}

#[test]
fn a_flipped_bit_anywhere_is_found_and_named() {
    let run = run();
    let mut names = file_names(&run.dir);
    names.retain(|name| !run.file(name).is_dir());
    names.extend(file_names(&run.file("eora")).into_iter().map(|name| format!("eora/{name}")));
    assert!(names.len() > 6, "{names:?}");
    for (seed, name) in names.iter().enumerate() {
        let path = run.file(name);
        let whole = fs::read(&path).unwrap();
        for at in &random_tokens(seed as u64, 40, 1) {
            // Tokens are below 320, files longer.
            let bit = at[0] as usize * 977 % (8 * whole.len());
            let tensor = (name == "model.safetensors").then(|| tensor_at(&path, bit / 8)).flatten();
            flip(&path, bit);
            let found = findings(&run.dir, None);
            let named = |finding: &Finding| {
                finding.file == *name && (tensor.is_none() || finding.tensor == tensor)
            };
            assert!(found.iter().any(named), "{name}, bit {bit}: {tensor:?} {found:?}");
            fs::write(&path, &whole).unwrap();
        }
    }
    assert_eq!(findings(&run.dir, None), []);
}

#[test]
fn files_that_come_and_go_are_found() {
    let run = run();
    fs::write(run.file("notes.txt"), "x").unwrap();
    fs::rename(run.file("generation_config.json"), run.file("other.json")).unwrap();
    let found = findings(&run.dir, None);
    let files: Vec<&str> = found.iter().map(|finding| finding.file.as_str()).collect();
    assert_eq!(files, ["generation_config.json", "notes.txt", "other.json"]);
}

#[test]
fn a_source_that_changed_is_found() {
    let run = run();
    let source = tempfile::tempdir().unwrap();
    copy_folder(&fixture("arch/llama"), source.path());
    assert_eq!(findings(&run.dir, Some(source.path())), []);
    let weights = source.path().join("model.safetensors");
    let bit = 8 * (fs::metadata(&weights).unwrap().len() as usize - 5);
    let tensor = tensor_at(&weights, bit / 8);
    flip(&weights, bit);
    let found = findings(&run.dir, Some(source.path()));
    assert!(found.iter().any(|finding| finding.file == "model.safetensors"), "{found:?}");
    let report = read_json(&run.file("gptq_report.json"));
    let ledger = report["ledger"]["tensors"].as_array().unwrap();
    let entry = ledger.iter().find(|entry| entry["name"].as_str() == tensor.as_deref()).unwrap();
    let copied = found.iter().any(|finding| finding.tensor == tensor);
    assert_eq!(copied, entry["fate"] == "copied", "{found:?}");
}

#[test]
fn numbers_that_cannot_be_are_found_whatever_the_hashes_say() {
    let run = run();
    // As if the run itself had written them: the report agrees.
    let path = run.file("model.safetensors");
    let mut tensors = gptq_tests::read_tensors(&path);
    let scales = tensors.get_mut("model.layers.1.mlp.up_proj.scales").unwrap();
    scales.set_half(3, 0x7C00);
    gptq_tests::write_tensors(&path, &tensors);
    let found = findings(&run.dir, None);
    let says = |word: &str| found.iter().any(|f| f.problem.contains(word));
    assert!(says("inf") || says("finite"), "{found:?}");
}

#[test]
fn a_folder_without_hashes_is_refused_with_the_reason() {
    let run = run();
    let path = run.file("gptq_report.json");
    fs::write(&path, r#"{"sha256": {}, "ledger": {"tensors": []}}"#).unwrap();
    let refused = verify(&run.dir, None).unwrap_err().to_string();
    assert!(refused.contains("holds no hashes of files"), "{refused}");
    fs::remove_file(&path).unwrap();
    let refused = verify(&run.dir, None).unwrap_err().to_string();
    assert!(refused.contains("gptq_report.json"), "{refused}");
}
