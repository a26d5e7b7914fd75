//! `gptq logits`.

use safetensors::Dtype;
use serde_json::json;

use crate::{
    args::LogitsArgs,
    failure::Failure,
    model_dir,
    tensor_file::{self, Out, TensorFile},
    terminal::{self, Meter},
};

pub(crate) fn run(args: &LogitsArgs, json: bool) -> Result<(), Failure> {
    let file = TensorFile::read(&args.ids)?;
    let ids = file.ids("input_ids")?;
    let ids = ids.ok_or_else(|| file.failure("holds no input_ids, I32 or I64 [batch, tokens]"))?;
    let (adapter, precision) = (args.adapter.as_deref(), args.precision);
    let model = model_dir::load(&args.model, &args.reading, adapter, precision)?;
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
    if json {
        let out = args.out.display().to_string();
        let precision = model.backend().precision().name();
        terminal::json(&json!({
            "out": out, "batch": batch, "tokens": tokens, "vocab": vocab, "precision": precision,
        }))?;
    } else {
        let how = model_dir::describe(model.backend());
        terminal::print(&format!("{}: logits {shape:?}, {how}\n", args.out.display()));
    }
    Ok(())
}
