//! gptq-models: a Hugging Face folder to a GPTQ folder, and a line of text from the result.
//!
//! `cargo run --release -p gptq-examples --example quantize_llama -- MODEL_DIR TEXT_FILE OUT_DIR`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::{ops::ControlFlow, path::PathBuf};

use gptq_calib::{CalibrationSet, SampleSpec, Tokenizer};
use gptq_kernels::CpuBackend;
use gptq_models::{Checkpoint, Model, QuantizeOptions, Sampling, generate, quantize};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1).map(PathBuf::from);
    // Without arguments: the model and the text of the demo, into a temporary folder.
    let assets = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../gptq-cli/assets");
    let temporary = tempfile::tempdir()?;
    let model_dir = args.next().unwrap_or_else(|| assets.join("mini-llama"));
    let text = args.next().unwrap_or_else(|| assets.join("demo/calibration.txt"));
    let out = args.next().unwrap_or_else(|| temporary.path().join("quantized"));

    let tokenizer = Tokenizer::from_file(&model_dir.join("tokenizer.json"))?;
    let spec = SampleSpec { n_samples: 32, seq_len: 256, seed: 0 };
    let set = CalibrationSet::from_files(&[&text], &tokenizer, None, &spec)?;
    let options = QuantizeOptions {
        calibration: serde_json::to_value(&set.provenance)?,
        ..QuantizeOptions::default()
    };
    let source = Checkpoint::open(&model_dir)?;
    let backend = CpuBackend::new();
    let report = quantize(&source, &set.samples, &backend, &options, &out, &mut ())?;
    println!("{} layers in {:.1} s", report.layers.len(), report.seconds);

    let model = Model::load(&Checkpoint::open(&out)?, backend)?;
    let prompt = tokenizer.encode("It was a", true)?;
    let go_on = |_| ControlFlow::Continue(());
    let new = generate(&model, &prompt, 24, Sampling::Greedy, go_on)?;
    println!("{}", tokenizer.decode(&[prompt, new.ids].concat(), true)?);
    Ok(())
}
