//! What the report says is true of the files.

use std::collections::BTreeSet;

use gptq_core::Bits;
use gptq_models::{Checkpoint, Fate};
use gptq_tests::{copy_folder, file_names, fixture, read_json, read_tensors};
use sha2::{Digest, Sha256};

use crate::{Run, calibration, options};

#[test]
fn coverage_is_complete() {
    let report = Run::with(&options(Bits::B4)).report;
    let block = 64 * (64 + 32 + 32 + 64) + 3 * 64 * 96;
    assert_eq!(report.coverage.expected, 2 * block);
    assert_eq!(report.coverage.quantized, 2 * block);
    assert_eq!(report.coverage.skipped, 0);
    assert_eq!(report.layers.len(), 14);
}

#[test]
fn the_ledger_accounts_for_every_tensor_and_file_of_the_source() {
    // Beside the model: a readme, other renderings of the weights, a folder.
    let dir = tempfile::tempdir().unwrap();
    copy_folder(&fixture("arch/llama"), dir.path());
    std::fs::remove_file(dir.path().join("expected.safetensors")).unwrap();
    for name in ["README.md", "pytorch_model.bin", "consolidated.00.pth", "other.safetensors"] {
        std::fs::write(dir.path().join(name), "x").unwrap();
    }
    std::fs::create_dir(dir.path().join("original")).unwrap();
    let source = Checkpoint::open(dir.path()).unwrap();
    let run = Run::of(&source, &calibration(), &options(Bits::B4));

    let tensors = read_tensors(&fixture("arch/llama/model.safetensors"));
    let ledger = &run.report.ledger;
    let accounted: BTreeSet<&String> = ledger.tensors.iter().map(|e| &e.name).collect();
    assert_eq!(ledger.tensors.len(), tensors.len());
    assert_eq!(accounted, tensors.keys().collect());
    let result = read_tensors(&run.file("model.safetensors"));
    for entry in &ledger.tensors {
        let copied = result.contains_key(&entry.name);
        assert_eq!(entry.fate, if copied { Fate::Copied } else { Fate::Quantized }, "{entry:?}");
    }

    let names: Vec<&str> = ledger.files.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, file_names(dir.path()));
    for entry in &ledger.files {
        let fate = match entry.name.as_str() {
            "config.json" | "model.safetensors" => Fate::Rewritten,
            "README.md" | "generation_config.json" => Fate::Copied,
            _ => Fate::Dropped,
        };
        assert_eq!(entry.fate, fate, "{entry:?}");
        assert_eq!(run.file(&entry.name).exists(), fate != Fate::Dropped, "{entry:?}");
        assert_eq!(entry.reason.is_some(), fate != Fate::Copied, "{entry:?}");
    }
}

#[test]
fn every_hash_of_the_report_is_that_of_the_bytes_in_the_file() {
    let run = Run::with(&options(Bits::B3));
    let tensors = read_tensors(&run.file("model.safetensors"));
    let hashes = tensors.iter().map(|(name, tensor)| {
        let digest = Sha256::digest(&tensor.bytes);
        (name.clone(), digest.iter().map(|b| format!("{b:02x}")).collect::<String>())
    });
    assert_eq!(run.report.sha256, hashes.collect());
    let bytes: usize = tensors.values().map(|t| t.bytes.len()).sum();
    assert_eq!(run.report.output_bytes, bytes as u64);
}

#[test]
fn the_report_in_the_folder_is_the_one_returned() {
    let run = Run::with(&options(Bits::B4));
    let written = read_json(&run.file("gptq_report.json"));
    assert_eq!(written["sha256"], serde_json::to_value(&run.report.sha256).unwrap());
    assert_eq!(written["coverage"], serde_json::to_value(run.report.coverage).unwrap());
    assert_eq!(written["ledger"], serde_json::to_value(&run.report.ledger).unwrap());
    assert_eq!(written["layers"].as_array().unwrap().len(), 14);
    assert_eq!(
        written["settings"]["quantization_config"],
        read_json(&run.file("quantize_config.json"))
    );
}

#[test]
fn notices_warn_of_what_servers_do_not_take_and_of_nothing_else() {
    let notices = |change: fn(&mut gptq_models::QuantizeOptions)| {
        let mut options = options(Bits::B4);
        options.method = gptq_models::Method::Rtn;
        change(&mut options);
        Run::with(&options).report.notices.join("\n")
    };
    // The model is too small for Marlin's tiles; nothing else is in the way.
    for line in notices(|_| {}).lines() {
        assert!(line.starts_with("sglang, tgi will not load this: "), "{line}");
        assert!(line.contains("tiles have 128 inputs and 64 outputs"), "{line}");
    }
    assert!(notices(|o| o.config.bits = Bits::B3).contains("3-bit"));
    assert!(notices(|o| o.config.sym = false).contains("asymmetric"));
    let odd = gptq_core::GroupSize::from_file(24).unwrap();
    let said = {
        let mut options = options(Bits::B4);
        options.method = gptq_models::Method::Rtn;
        options.config.group_size = odd;
        Run::with(&options).report.notices.join("\n")
    };
    assert!(said.contains("group_size 24") && said.contains("64 inputs"), "{said}");
}
