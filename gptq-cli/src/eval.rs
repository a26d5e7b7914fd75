//! `gptq eval`.

use std::path::Path;

use gptq_calib::{Corpus, disjoint_windows, strided_windows};
use gptq_models::{Checkpoint, Evaluation, Window, evaluate};
use serde::Serialize;

use crate::{
    args::{EvalArgs, PrecisionArg},
    device::{Named, Work},
    failure::Failure,
    model_dir,
    terminal::{self, Meter, Table},
};

pub(crate) fn run(args: &EvalArgs, json: bool) -> Result<(), Failure> {
    let checkpoint = model_dir::open(&args.model, &args.reading)?;
    let seqlen = model_dir::seqlen(args.seqlen, &checkpoint)?;
    let tokenizer = model_dir::tokenizer(&args.model)?;
    let files: Vec<&Path> = args.text.iter().map(|p| p.as_path()).collect();
    let ids = Corpus::from_files(&files, &tokenizer, None)?.ids;
    let mut windows = windows(&ids, seqlen, args.stride)?;
    windows.truncate(args.max_windows.unwrap_or(usize::MAX));

    args.device.run(&checkpoint, PrecisionArg::F32, &Task { args, json, ids, windows })
}

/// What is asked, and the text it is about.
struct Task<'a> {
    args: &'a EvalArgs,
    json: bool,
    ids: Vec<u32>,
    windows: Vec<Window>,
}

impl Work for Task<'_> {
    fn run<B: Named>(&self, checkpoint: &Checkpoint, backend: B) -> Result<(), Failure> {
        let Self { args, json, ids, windows } = self;
        // What is compared with is as it is.
        let exact = backend.exact();
        let model = model_dir::load(checkpoint, args.adapter.as_deref(), backend)?;
        let load = |dir: &Path| model_dir::load(&Checkpoint::open(dir)?, None, exact);
        let reference = args.reference.as_deref().map(load).transpose()?;
        let mut meter = Meter::new("eval");
        let total = windows.len() as f64;
        let result = evaluate(&model, reference.as_ref(), ids, windows, |done| {
            meter.set(done as f64 / total, &format!("{done} of {total} windows"));
        })?;
        meter.finish();
        let backend = model.backend();
        if *json {
            terminal::json(&Said { result: &result, precision: backend.precision_name() })?;
        } else {
            terminal::print(&table(&args.model, &result));
            terminal::message(&backend.describe());
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct Said<'a> {
    #[serde(flatten)]
    result: &'a Evaluation,
    precision: &'static str,
}

/// The paper's protocol lays windows side by side and drops the rest; with a stride they overlap,
/// and each token is scored once, with as much context as its window gives.
pub(crate) fn windows(
    ids: &[u32],
    seqlen: usize,
    stride: Option<usize>,
) -> Result<Vec<Window>, Failure> {
    if seqlen < 2 {
        return Err(Failure::usage("--seqlen must be at least 2: one token predicts the next"));
    }
    Ok(match stride {
        None => (0..disjoint_windows(ids, seqlen)?.len())
            .map(|w| Window { range: w * seqlen..(w + 1) * seqlen, targets: seqlen - 1 })
            .collect(),
        Some(stride) => strided_windows(ids.len(), seqlen, stride)?
            .into_iter()
            // Nothing stands before the first token of a window to predict it from.
            .map(|w| Window { range: w.begin..w.end, targets: w.targets.min(w.end - w.begin - 1) })
            .collect(),
    })
}

fn table(model: &Path, result: &Evaluation) -> String {
    let mut table = Table::new(&["model", "perplexity", "tokens", "windows", "KL", "top-1"]);
    let optional = |value: Option<f64>, digits: usize| match value {
        Some(value) => format!("{value:.digits$}"),
        None => "-".to_owned(),
    };
    table.row([
        model.display().to_string(),
        format!("{:.4}", result.ppl),
        result.tokens.to_string(),
        result.windows.to_string(),
        optional(result.kl, 6),
        optional(result.top1, 4),
    ]);
    if let Some(ppl) = result.ppl_reference {
        let (tokens, windows) = (result.tokens.to_string(), result.windows.to_string());
        let none = || "-".to_owned();
        table.row(["reference".into(), format!("{ppl:.4}"), tokens, windows, none(), none()]);
    }
    table.render()
}
