//! gptq-models: a Hugging Face folder, dense or quantized, to a GGUF file, and what that loses.
//!
//! `cargo run --release -p gptq-examples --example export_gguf -- MODEL_DIR OUT.gguf [TYPE]`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::{collections::BTreeMap, path::PathBuf};

use gptq_models::{Checkpoint, GgufOptions, GgufType, write_gguf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    // Without arguments: the model of the demo, into a temporary folder.
    let assets = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../gptq-cli/assets");
    let temporary = tempfile::tempdir()?;
    let model_dir = args.next().map_or_else(|| assets.join("mini-llama"), PathBuf::from);
    let out = args.next().map_or_else(|| temporary.path().join("model.gguf"), PathBuf::from);
    let ty: GgufType = args.next().as_deref().unwrap_or("auto").parse()?;

    let options = GgufOptions { ty, ..GgufOptions::default() };
    let report = write_gguf(&Checkpoint::open(&model_dir)?, &out, &options, &mut ())?;
    let mut types: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for tensor in &report.tensors {
        let (count, bytes) = types.entry(&tensor.ty).or_default();
        (*count, *bytes) = (*count + 1, *bytes + tensor.bytes);
    }
    for (ty, (count, bytes)) in types {
        println!("{ty:5} {count:4} tensors {bytes:12} bytes");
    }
    let losses = report.tensors.iter().filter_map(|t| t.loss);
    match losses.max_by(|a, b| a.rms.total_cmp(&b.rms)) {
        None => println!("nothing is quantized; every weight is in the file as it was"),
        Some(_) if report.exact => println!("every quantized weight is in the file as it was"),
        Some(worst) => println!(
            "worst layer: rms error {:.2e} and largest {:.2e} of its rms weight, {:.3} steps; {} of \
             {} weights differ",
            worst.rms, worst.max, worst.max_steps, worst.inexact, worst.weights
        ),
    }
    report.notices.iter().for_each(|notice| println!("note: {notice}"));
    println!("{} -> {} bytes in {:.2} s", report.source_bytes, report.bytes, report.seconds);
    Ok(())
}
