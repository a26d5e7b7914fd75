//! `gptq plan`.

use std::{io::Read, path::PathBuf};

use clap::Args;
use gptq_models::{Architecture, Checkpoint, Forecast, Method, Speed, forecast, measure_speed};
use serde_json::json;

use crate::{
    args::RunArgs,
    device::Named,
    failure::Failure,
    quantize::{backend, options},
    terminal::{self, Table, bytes, clock},
};

/// What a run of `quantize` with the same settings would need and take.
#[derive(Args, Debug)]
#[command(
    after_help = "Takes the options of gptq quantize. No weight is read: sizes come from headers, \
    time from a measurement of this machine."
)]
pub(crate) struct PlanArgs {
    /// Folder of the model to be quantized
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Seconds to measure this machine for; 0 leaves the time out
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub(crate) measure: f64,
}

pub(crate) fn run(args: &PlanArgs, json: bool) -> Result<(), Failure> {
    let options = options(&args.run)?;
    let checkpoint = Checkpoint::open(&args.model)?;
    let backend = backend(args.run.precision);
    let samples = args.run.samples.spec(&checkpoint)?;
    let set = (samples.n_samples, samples.seq_len);
    let half = gptq_core::Backend::multiplies_bf16(&backend);
    let plan =
        forecast(&checkpoint, &options, set, half, text_bytes(&args.run.calib, options.max_ram)?)?;
    let solves = options.method == Method::Gptq && args.measure > 0.0;
    let speed = match solves {
        true => {
            let hidden = Architecture::of(&checkpoint)?.config.hidden_size;
            Some(measure_speed(&backend, hidden, args.measure)?)
        }
        false => None,
    };
    let seconds = speed.map(|speed| plan.work.seconds(&speed));
    if json {
        return terminal::json(&json!({
            "plan": plan,
            "speed": speed,
            "seconds": seconds,
            "computed": backend.describe(),
        }));
    }
    terminal::print(&to_text(&plan, seconds, speed));
    Ok(())
}

/// Memory to read and tokenize the calibration text, if it is given.
///
/// # Errors
/// A file that cannot be read, or that takes more than the limit.
pub(crate) fn text_bytes(calib: &[PathBuf], max_ram: Option<u64>) -> Result<u64, Failure> {
    let mut largest = 0;
    // Whoever reads it whole says what is wrong with anything else.
    for path in calib.iter().filter(|path| path.is_file()) {
        let failed = |e| Failure::failed(format!("cannot read {}: {e}", path.display()));
        let size = std::fs::metadata(path).map_err(failed)?.len();
        let mut file = std::fs::File::open(path).map_err(failed)?;
        let mut begins = [0; 256];
        let read = file.read(&mut begins).map_err(failed)?;
        let ids = String::from_utf8_lossy(&begins[..read]).contains("\"input_ids\"");
        // Measured: a text's words, their places and ids; a list of numbers as JSON.
        let (needs, words) = match ids {
            true => (8 * size, "to read as ids"),
            false => (128 * size, "to tokenize"),
        };
        if let Some(limit) = max_ram.filter(|&limit| needs > limit) {
            return Err(Failure::failed(format!(
                "{} has {} MiB and takes about {} MiB {words}, but --max-ram allows {} MiB; give \
                 less text, or allow more",
                path.display(),
                size >> 20,
                needs >> 20,
                limit >> 20
            )));
        }
        largest = largest.max(needs);
    }
    Ok(largest)
}

fn to_text(plan: &Forecast, seconds: Option<f64>, speed: Option<Speed>) -> String {
    let mut table = Table::new(&["needed", "amount"]);
    let mut row = |name: &str, amount: String| table.row([name.to_owned(), amount]);
    let m = &plan.memory;
    row("linears to quantize", plan.linears.to_string());
    row("output", bytes(plan.output_bytes));
    row("memory at most", bytes(m.peak_bytes));
    row("  samples that wait", bytes(m.waiting_bytes));
    row("  weights", bytes(m.weights_bytes));
    row("  Hessians and factors", bytes(m.hessian_bytes));
    row("  one pass", bytes(m.pass_bytes));
    row("  the program and its files", bytes(m.program_bytes));
    row("memory to begin with", bytes(m.start_bytes));
    row("scratch file for samples", bytes(plan.scratch_bytes));
    row("samples saved on the way", bytes(plan.saved_bytes));
    if let (Some(seconds), Some(speed)) = (seconds, speed) {
        let w = &plan.work;
        let part = |operations: f64, rate: f64| {
            format!("{:.1} TFLOP at {:.0} GFLOP/s", operations / 1e12, rate / 1e9)
        };
        let time = match seconds < 60.0 {
            true => format!("{seconds:.1} s"),
            false => clock(std::time::Duration::from_secs_f64(seconds)),
        };
        row("time, about", time);
        row("  through the model", part(w.forward, speed.forward));
        row("  Hessians", part(w.gather, speed.gather));
        row("  solving", part(w.solve, speed.solve));
    }
    table.render()
}
