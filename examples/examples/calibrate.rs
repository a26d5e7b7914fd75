//! gptq-calib: text to token windows, drawn as the reference draws them.
//!
//! `cargo run -p gptq-examples --example calibrate -- MODEL_DIR TEXT_FILE`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::path::PathBuf;

use gptq_calib::{CalibrationSet, SampleSpec, Tokenizer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1).map(PathBuf::from);
    // Without arguments: the model and the text of the demo.
    let assets = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../gptq-cli/assets");
    let model = args.next().unwrap_or_else(|| assets.join("mini-llama"));
    let text = args.next().unwrap_or_else(|| assets.join("demo/calibration.txt"));

    let tokenizer = Tokenizer::from_file(&model.join("tokenizer.json"))?;
    let spec = SampleSpec { n_samples: 8, seq_len: 64, seed: 0 };
    let set = CalibrationSet::from_files(&[&text], &tokenizer, None, &spec)?;
    println!("{}", serde_json::to_string_pretty(&set.provenance)?);
    println!("first sample: {:?}", tokenizer.decode(&set.samples[0], true)?);
    Ok(())
}
