//! `gptq doctor`, and the same look at the calibration before `gptq quantize` starts.

use std::path::{Path, PathBuf};

use clap::Args;
use gptq_calib::{CalibrationSet, ChatTemplate, Corpus, Diagnosis, Model, SampleSpec, diagnose};
use gptq_models::{Architecture, Checkpoint};
use serde_json::{Value, json};

use crate::{
    args::count,
    failure::Failure,
    model_dir,
    terminal::{self, Table},
};

/// What a calibration text is worth for a model.
#[derive(Args, Debug)]
#[command(after_help = "Exit code 3 if the set is absurd: quantize would refuse it unless told \
    --accept-calibration.")]
pub(crate) struct DoctorArgs {
    /// Folder of the model to be quantized; weights are not read
    pub(crate) model: PathBuf,
    /// Calibration text, as for quantize; repeatable
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) calib: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) samples: SampleArgs,
}

/// What is drawn from calibration text.
#[derive(Args, Debug)]
pub(crate) struct SampleArgs {
    /// Calibration samples
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = count())]
    nsamples: usize,
    /// Tokens per sample [default: 2048, or the model's context if that is shorter]
    #[arg(long, value_name = "N", value_parser = count())]
    pub(crate) seqlen: Option<usize>,
    /// Seed of the windows drawn from the text
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

impl SampleArgs {
    pub(crate) fn spec(&self, checkpoint: &Checkpoint) -> Result<SampleSpec, Failure> {
        Ok(SampleSpec {
            n_samples: self.nsamples,
            seq_len: model_dir::seqlen(self.seqlen, checkpoint)?,
            seed: self.seed,
        })
    }
}

/// What to do with a set that makes no sense.
#[derive(Args, Debug)]
pub(crate) struct AcceptArgs {
    /// Calibrate even on text that is absurdly repetitive or short, and only say so
    #[arg(long)]
    pub(crate) accept_calibration: bool,
}

pub(crate) fn run(args: &DoctorArgs, json: bool) -> Result<(), Failure> {
    let checkpoint = Checkpoint::open(&args.model)?;
    let spec = args.samples.spec(&checkpoint)?;
    let (set, found) = draw(&args.model, &checkpoint, &args.calib, &spec)?;
    if json {
        terminal::json(&json!({"provenance": set.provenance, "diagnosis": found}))?;
    } else {
        terminal::print(&to_text(&set, &found));
    }
    match found.complaints.iter().find(|complaint| complaint.absurd) {
        None => Ok(()),
        Some(complaint) => {
            Err(Failure::policy(format!("this set is no calibration: {}", complaint.message)))
        }
    }
}

/// The set, and what is to be said of it.
pub(crate) fn draw(
    dir: &Path,
    checkpoint: &Checkpoint,
    files: &[PathBuf],
    spec: &SampleSpec,
) -> Result<(CalibrationSet, Diagnosis), Failure> {
    let tokenizer = model_dir::tokenizer(dir)?;
    // Only conversations need a template, and their reader says so if there is none.
    let template = ChatTemplate::from_model_dir(dir).ok();
    let files: Vec<&Path> = files.iter().map(|file| file.as_path()).collect();
    let corpus = Corpus::from_files(&files, &tokenizer, template.as_ref())?;
    let set = CalibrationSet::draw(&corpus, spec)?;
    let arch = Architecture::of(checkpoint).ok();
    let eos = arch.as_ref().map(|arch| &arch.config.eos_token_ids[..]).unwrap_or_default();
    let padding = checkpoint.config()["pad_token_id"].as_u64();
    let padding = padding.and_then(|id| u32::try_from(id).ok());
    let model = Model {
        widest: arch.as_ref().and_then(|arch| arch.all_linears().map(|l| l.in_features).max()),
        context: arch.as_ref().map(|arch| arch.config.max_position_embeddings),
        vocab_size: arch.as_ref().map(|arch| arch.config.vocab_size),
        special: tokenizer.special_ids(),
        // Where the end of a text is the padding too, it is no sign of any.
        padding: padding.filter(|id| !eos.contains(id)),
        prefix: tokenizer.prefix()?,
        template: template.is_some(),
    };
    let found = diagnose(&corpus, &set, &model);
    Ok((set, found))
}

/// Says what is wrong; refuses what is absurd, unless that is accepted. Returns the record for the
/// report.
pub(crate) fn judge(
    set: &CalibrationSet,
    found: &Diagnosis,
    accept: &AcceptArgs,
) -> Result<Value, Failure> {
    for complaint in &found.complaints {
        if complaint.absurd && !accept.accept_calibration {
            return Err(Failure::failed(format!(
                "this set is no calibration: {}. gptq doctor shows all figures; \
                 --accept-calibration goes on all the same",
                complaint.message
            )));
        }
        terminal::message(&format!("note: calibration: {}", complaint.message));
    }
    let failed = |e| Failure::failed(format!("calibration record: {e}"));
    let mut record = serde_json::to_value(&set.provenance).map_err(failed)?;
    record["diagnosis"] = serde_json::to_value(found).map_err(failed)?;
    Ok(record)
}

fn to_text(set: &CalibrationSet, found: &Diagnosis) -> String {
    let percent = |share: f64| format!("{:.1}%", 100.0 * share);
    let mut table = Table::new(&["calibration", "figure"]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    let p = &set.provenance;
    row("samples", format!("{} of {} tokens", p.n_samples, p.seq_len));
    row("tokens of the set", found.set_tokens.to_string());
    row("tokens of the text", found.text_tokens.to_string());
    row("of those, covered by samples", percent(found.covered_share));
    row("of the set, not overlap", percent(found.fresh_share));
    row("different tokens", found.distinct_tokens.to_string());
    row("of the set's tokens", percent(found.distinct_share));
    if let Some(share) = found.vocabulary_share {
        row("of the vocabulary", percent(share));
    }
    row("bits of entropy per token", format!("{:.2}", found.entropy_bits));
    if let Some(tokens) = found.tokens_per_input {
        row("tokens per input of the widest linear", format!("{tokens:.1}"));
    }
    row("samples that are copies", percent(found.duplicate_share));
    row("runs of 32 tokens that stood before, in the text", percent(found.repeated_share));
    row("the same in the set", percent(found.repeated_in_set_share));
    row("special tokens", percent(found.special_share));
    row("padding", percent(found.padding_share));
    let d = &found.documents;
    row("documents", d.count.to_string());
    row("of those, conversations by the template", d.conversations.to_string());
    row(
        "their tokens: shortest, median, longest",
        format!("{}, {}, {}", d.shortest, d.median, d.longest),
    );
    let begins = match found.prefix.is_empty() {
        true => "the tokenizer adds none".to_owned(),
        false => format!("{} of {}", found.samples_with_prefix, p.n_samples),
    };
    row("samples that begin with a BOS", begins);
    let mut text = table.render();
    text += &format!("documents by tokens: {}\n", d.histogram_text());
    for complaint in &found.complaints {
        let kind = if complaint.absurd { "absurd" } else { "warning" };
        text += &format!("{kind}: {}\n", complaint.message);
    }
    if found.complaints.is_empty() {
        text += "nothing is wrong with it\n";
    }
    text
}
