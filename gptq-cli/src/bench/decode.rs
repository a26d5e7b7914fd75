//! `gptq bench decode`.

use std::{path::PathBuf, time::Instant};

use clap::Args;
use gptq_models::{Checkpoint, Model};
use serde_json::json;

use crate::{
    args::{ReadingArgs, count},
    device::{self, DeviceArgs, Named, Work},
    failure::Failure,
    model_dir,
    terminal::{self, Table},
};

#[derive(Args, Debug)]
pub(crate) struct DecodeArgs {
    /// Model folder, dense or quantized
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    /// Tokens to read at once
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = count())]
    pub(crate) prompt_tokens: usize,
    /// Tokens to read one by one after them
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = count())]
    pub(crate) tokens: usize,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

pub(crate) fn run(args: &DecodeArgs, json: bool) -> Result<(), Failure> {
    let checkpoint = model_dir::open(&args.model, &args.reading)?;
    args.device.run(&checkpoint, device::fast(), &Task { args, json })
}

struct Task<'a> {
    args: &'a DecodeArgs,
    json: bool,
}

impl Work for Task<'_> {
    fn run<B: Named>(&self, checkpoint: &Checkpoint, backend: B) -> Result<(), Failure> {
        let model = model_dir::load(checkpoint, None, backend)?;
        measure(self.args, self.json, &model)
    }
}

fn measure<B: Named>(args: &DecodeArgs, json: bool, model: &Model<B>) -> Result<(), Failure> {
    let vocab = model.config().vocab_size as u64;
    // Which tokens they are costs nothing; any order without short cycles will do.
    let id = |i: usize| ((i as u64 + 1) * 7919 % vocab) as u32;
    let prompt: Vec<u32> = (0..args.prompt_tokens).map(id).collect();

    // Everything is touched once before it counts.
    model.next_token(&[id(0)], &mut model.cache(1)?)?;
    let mut cache = model.cache(args.prompt_tokens + args.tokens)?;
    let started = Instant::now();
    model.next_token(&prompt, &mut cache)?;
    let prefill = started.elapsed().as_secs_f64();
    let started = Instant::now();
    for i in 0..args.tokens {
        // Which token is chosen does not matter, but choosing is part of it.
        model.next_token(&[id(args.prompt_tokens + i)], &mut cache)?;
    }
    let decode = started.elapsed().as_secs_f64();

    let threads = rayon::current_num_threads();
    let memory = model.backend().read_bandwidth()?;
    let bytes = model.linear_bytes();
    let read = (bytes * args.tokens as u64) as f64 / decode;
    let rate = |tokens: usize, seconds: f64| tokens as f64 / seconds;
    if json {
        return terminal::json(&json!({
            "precision": model.backend().precision_name(),
            "instructions": model.backend().instructions(),
            "threads": threads,
            "prompt_tokens": args.prompt_tokens,
            "prefill_seconds": prefill,
            "prefill_tokens_per_second": rate(args.prompt_tokens, prefill),
            "tokens": args.tokens,
            "decode_seconds": decode,
            "decode_tokens_per_second": rate(args.tokens, decode),
            "weight_bytes_per_token": bytes,
            "weight_bytes_per_second": read,
            "read_bandwidth": memory,
            "share_of_bandwidth": read / memory,
        }));
    }
    let mut table =
        Table::new(&["phase", "tokens", "seconds", "tokens/s", "weights GB/s", "of bandwidth"]);
    let mut row = |phase: &str, tokens: usize, seconds: f64, last: [String; 2]| {
        let [bandwidth, share] = last;
        let (time, rate) = (format!("{seconds:.2}"), format!("{:.1}", rate(tokens, seconds)));
        table.row([phase.to_owned(), tokens.to_string(), time, rate, bandwidth, share]);
    };
    row("prefill", args.prompt_tokens, prefill, ["-".into(), "-".into()]);
    let share = format!("{:.0}%", 100.0 * read / memory);
    row("decode", args.tokens, decode, [format!("{:.2}", read / 1e9), share]);
    terminal::print(&table.render());
    terminal::print(&format!(
        "{}, {threads} threads; {} of weights per token; memory reads {:.2} GB/s\n",
        model.backend().describe(),
        terminal::bytes(bytes),
        memory / 1e9,
    ));
    Ok(())
}
