//! `gptq`: quantize language models with GPTQ, evaluate and run the result.
//!
//! Results go to stdout (one JSON object with `--json`), progress and messages to stderr. Exit
//! codes: 0 done, 1 failed, 2 wrong usage, 3 done but a policy failed.

#![forbid(unsafe_code)]

mod args;
mod bench;
mod check;
mod convert;
mod demo;
mod device;
mod diff;
mod doctor;
mod eval;
mod failure;
mod generate;
mod inspect;
mod logits;
mod model_dir;
mod plan;
mod policy;
mod quantize;
mod report;
mod reproduce;
mod requantize;
mod settings;
mod solve_layer;
mod summary;
mod tensor_file;
mod terminal;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use failure::Failure;

fn main() -> ExitCode {
    gptq_kernels::share_heap();
    gptq_kernels::keep_memory();
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            terminal::message(&format!("error: {failure}"));
            failure.exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(cli.threads.unwrap_or(0))
        .build()
        .map_err(|e| Failure::failed(format!("cannot start {:?} threads: {e}", cli.threads)))?;
    let json = cli.json;
    pool.install(|| match cli.command {
        Command::Demo(args) => demo::run(&args, json),
        Command::Quantize(args) => quantize::run(&args, json),
        Command::Eval(args) => eval::run(&args, json),
        Command::Generate(args) => generate::run(&args, json),
        Command::Bench(command) => bench::run(&command, json),
        Command::Logits(args) => logits::run(&args, json),
        Command::SolveLayer(args) => solve_layer::run(&args, json),
        Command::Inspect(args) => inspect::run(&args, json),
        Command::Convert(args) => convert::run(&args, json),
        Command::Diff(args) => diff::run(&args, json),
        Command::Verify(args) => verify::run(&args, json),
        Command::Check(args) => check::run(&args, json),
        Command::Doctor(args) => doctor::run(&args, json),
        Command::Report(args) => report::run(&args, json),
        Command::Requantize(args) => requantize::run(&args, json),
        Command::Reproduce(args) => reproduce::run(&args, json),
        Command::Plan(args) => plan::run(&args, json),
    })
}
