//! `gptq logits`.

use gptq_models::Checkpoint;
use ndarray::Array2;
use safetensors::Dtype;
use serde_json::json;

use crate::{
    args::{LogitsArgs, PrecisionArg},
    device::{Named, Work},
    failure::Failure,
    model_dir,
    tensor_file::{self, Out, TensorFile},
    terminal::{self, Meter},
};

pub(crate) fn run(args: &LogitsArgs, json: bool) -> Result<(), Failure> {
    let file = TensorFile::read(&args.ids)?;
    let ids = file.ids("input_ids")?;
    let ids = ids.ok_or_else(|| file.failure("holds no input_ids, I32 or I64 [batch, tokens]"))?;
    let checkpoint = model_dir::open(&args.model, &args.reading)?;
    args.device.run(&checkpoint, PrecisionArg::F32, &Task { args, json, file: &file, ids })
}

struct Task<'a> {
    args: &'a LogitsArgs,
    json: bool,
    file: &'a TensorFile,
    ids: Array2<u32>,
}

impl Work for Task<'_> {
    fn run<B: Named>(&self, checkpoint: &Checkpoint, backend: B) -> Result<(), Failure> {
        let Self { args, json, file, ids } = self;
        let model = model_dir::load(checkpoint, args.adapter.as_deref(), backend)?;
        let (batch, tokens) = ids.dim();
        let vocab = model.config().vocab_size;
        let mut logits: Vec<f32> = Vec::with_capacity(batch * tokens * vocab);
        let mut meter = Meter::new("logits");
        for (i, row) in ids.rows().into_iter().enumerate() {
            let of_row =
                model.logits(&row.to_vec()).map_err(|e| file.failure(format!("row {i}: {e}")))?;
            logits.extend(of_row);
            meter.set((i + 1) as f64 / batch as f64, "");
        }
        meter.finish();
        let shape = [batch, tokens, vocab];
        tensor_file::write(&args.out, &[Out::new("logits", Dtype::F32, &shape, &logits)])?;
        let backend = model.backend();
        if *json {
            let (out, precision) = (args.out.display().to_string(), backend.precision_name());
            return terminal::json(&json!({
                "out": out, "batch": batch, "tokens": tokens, "vocab": vocab,
                "precision": precision,
            }));
        }
        let (out, how) = (args.out.display(), backend.describe());
        terminal::print(&format!("{out}: logits {shape:?}, {how}\n"));
        Ok(())
    }
}
