//! `gptq generate`.

use std::{ops::ControlFlow, path::Path};

use gptq_calib::{ChatTemplate, Message, Tokenizer};
use gptq_models::{Checkpoint, Generated, Sampling, generate};
use serde_json::json;

use crate::{
    args::GenerateArgs,
    device::{self, Named, Work},
    failure::Failure,
    model_dir, terminal,
};

pub(crate) fn run(args: &GenerateArgs, json: bool) -> Result<(), Failure> {
    let sampling = sampling(args)?;
    let tokenizer = model_dir::tokenizer(&args.model)?;
    let prompt = prompt(args, &tokenizer, &args.model)?;
    let checkpoint = model_dir::open(&args.model, &args.reading)?;
    let task = Task { args, json, sampling, tokenizer, prompt };
    args.device.run(&checkpoint, device::fast(), &task)
}

struct Task<'a> {
    args: &'a GenerateArgs,
    json: bool,
    sampling: Sampling,
    tokenizer: Tokenizer,
    prompt: Vec<u32>,
}

impl Work for Task<'_> {
    fn run<B: Named>(&self, checkpoint: &Checkpoint, backend: B) -> Result<(), Failure> {
        let Self { args, json, sampling, tokenizer, prompt } = self;
        let model = model_dir::load(checkpoint, args.adapter.as_deref(), backend)?;

        let mut stream = tokenizer.decode_stream(true);
        let mut text = String::new();
        let mut broken = None;
        let mut show = |piece: Option<String>| {
            if let Some(piece) = piece {
                text += &piece;
                if !*json {
                    terminal::print(&piece);
                }
            }
        };
        let out =
            generate(&model, prompt, args.max_new_tokens, *sampling, |id| match stream.push(id) {
                Ok(piece) => {
                    show(piece);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    broken = Some(error);
                    ControlFlow::Break(())
                }
            })?;
        if let Some(error) = broken {
            return Err(error.into());
        }
        show(stream.finish()?);

        let rate = tokens_per_second(&out);
        if *json {
            terminal::json(&json!({
                "text": text,
                "ids": out.ids,
                "ended": out.ended,
                "prompt_tokens": prompt.len(),
                "new_tokens": out.ids.len(),
                "precision": model.backend().precision_name(),
                "prefill_seconds": out.prefill_seconds,
                "decode_seconds": out.decode_seconds,
                "prompt_tokens_per_second": prompt.len() as f64 / out.prefill_seconds,
                "tokens_per_second": rate,
            }))?;
        } else {
            terminal::print("\n");
            terminal::message(&format!(
                "{} prompt tokens at {:.1} tokens/s, {} new tokens at {} tokens/s, {}",
                prompt.len(),
                prompt.len() as f64 / out.prefill_seconds,
                out.ids.len(),
                rate.map_or("-".to_owned(), |rate| format!("{rate:.1}")),
                model.backend().describe(),
            ));
        }
        Ok(())
    }
}

/// The first token comes with the prompt; the others are what decoding took.
fn tokens_per_second(out: &Generated) -> Option<f64> {
    let decoded = out.ids.len().checked_sub(1).filter(|&n| n > 0)?;
    Some(decoded as f64 / out.decode_seconds)
}

fn sampling(args: &GenerateArgs) -> Result<Sampling, Failure> {
    if !(args.temperature >= 0.0 && args.temperature.is_finite()) {
        return Err(Failure::usage("--temperature must be 0 (greedy) or above"));
    }
    if !(args.top_p > 0.0 && args.top_p <= 1.0) {
        return Err(Failure::usage("--top-p must be above 0 and at most 1"));
    }
    if args.temperature == 0.0 {
        return Ok(Sampling::Greedy);
    }
    Ok(Sampling::Random {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        seed: args.seed,
    })
}

fn prompt(args: &GenerateArgs, tokenizer: &Tokenizer, dir: &Path) -> Result<Vec<u32>, Failure> {
    if !args.chat {
        return Ok(tokenizer.encode(&args.prompt, true)?);
    }
    let message =
        |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    let mut messages = Vec::new();
    messages.extend(args.system.as_deref().map(|system| message("system", system)));
    messages.push(message("user", &args.prompt));
    let text = ChatTemplate::from_model_dir(dir)?.render(&messages, true)?;
    // The template writes its own special tokens.
    Ok(tokenizer.encode(&text, false)?)
}
