//! `gptq requantize`: some layers of a result once more, the others as they are.

use std::path::PathBuf;

use clap::Args;
use gptq_calib::SampleSpec;
use gptq_models::{Checkpoint, Kept, Method, QuantizeOptions, Report, Staging, requantize};
use gptq_pack::DynamicRules;
use serde_json::{Map, Value, json};

use crate::{
    args::{PassPrecisionArg, count},
    device::Named,
    doctor::{self, AcceptArgs},
    failure::Failure,
    model_dir,
    quantize::{ResumeArgs, backend},
    summary,
    terminal::{self, Meter},
};

/// Do some layers of a result again.
#[derive(Args, Debug)]
pub(crate) struct RequantizeArgs {
    /// Folder that gptq quantize wrote
    pub(crate) result: PathBuf,
    /// Linears to do again: a regular expression that matches from the beginning of their names
    #[arg(long, value_name = "RULE")]
    pub(crate) layers: String,
    /// Folder of the original model
    #[arg(long, value_name = "DIR")]
    pub(crate) source: PathBuf,
    /// Folder to write; must not exist yet
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// What is new for them, as in a rule of --dynamic: {"bits": 8, "group_size": 32} [default: the
    /// settings they had]
    #[arg(long, value_name = "JSON")]
    pub(crate) set: Option<String>,
    /// Leave them as the original has them
    #[arg(long, conflicts_with = "set")]
    pub(crate) skip: bool,
    /// Calibration text, as for quantize; repeatable
    #[arg(long, value_name = "FILE")]
    pub(crate) calib: Vec<PathBuf>,
    /// Calibration samples [default: as many as the result was made with]
    #[arg(long, value_name = "N", value_parser = count())]
    pub(crate) nsamples: Option<usize>,
    /// Tokens per sample [default: as many]
    #[arg(long, value_name = "N", value_parser = count())]
    pub(crate) seqlen: Option<usize>,
    /// Seed of the windows drawn from the text [default: the same]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// What the factors of products are rounded to on the way through the model
    /// [default: bf16 where the CPU multiplies it faster, else f32]
    #[arg(long, value_enum, value_name = "P")]
    pub(crate) precision: Option<PassPrecisionArg>,
    /// Memory to stay within, in GB
    #[arg(long, value_name = "GB")]
    pub(crate) max_ram: Option<f64>,
    #[command(flatten)]
    pub(crate) accept: AcceptArgs,
    #[command(flatten)]
    pub(crate) resume: ResumeArgs,
}

pub(crate) fn run(args: &RequantizeArgs, json: bool) -> Result<(), Failure> {
    Staging::check(&args.out)?;
    let (source, result) = (Checkpoint::open(&args.source)?, Checkpoint::open(&args.result)?);
    let kept = Kept::but(&result, &args.layers)?;
    let recipe = kept.recipe();
    let backend = backend(args.precision);
    let mut options = recipe.options()?;
    options.tool = QuantizeOptions::default().tool;
    options.computed = backend.describe();
    options.dynamic = with_rule(&recipe.dynamic, args)?;
    options.max_ram = args.max_ram.map(|gb| model_dir::gigabytes("--max-ram", gb)).transpose()?;
    args.resume.set(&mut options);
    if options.eora.take().is_some() {
        terminal::message("note: the adapter of the earlier result is not part of the new one");
    }
    let samples = match options.method {
        Method::Rtn => Vec::new(),
        Method::Gptq if args.calib.is_empty() => {
            return Err(Failure::usage(
                "these layers are solved with calibration text: --calib FILE, best the same as before",
            ));
        }
        Method::Gptq => {
            let recorded = summary::calibration(&Report::open(&args.result)?, &args.result)?;
            let spec = SampleSpec {
                n_samples: args.nsamples.unwrap_or(recorded.n_samples),
                seq_len: args.seqlen.unwrap_or(recorded.seq_len),
                seed: args.seed.unwrap_or(recorded.seed),
            };
            let (set, found) = doctor::draw(&args.source, &source, &args.calib, &spec)?;
            options.calibration = doctor::judge(&set, &found, &args.accept)?;
            set.samples
        }
    };
    let mut meter = Meter::new("requantize");
    let report = requantize(&source, &kept, &samples, &backend, &options, &args.out, &mut meter)?;
    meter.finish();
    if json {
        terminal::json(&summary::to_json(&report, &args.out, None))?;
    } else {
        terminal::print(&summary::to_text(&report, &args.out, None));
    }
    Ok(())
}

/// The rules of the result behind one for the layers to do again.
fn with_rule(old: &Value, args: &RequantizeArgs) -> Result<DynamicRules, Failure> {
    let mut rules = Map::new();
    let set = args.set.as_deref().map(|set| {
        let set: Result<Value, _> = serde_json::from_str(set);
        set.map_err(|e| Failure::usage(format!("--set is not JSON: {e}")))
    });
    match (args.skip, set.transpose()?) {
        (true, _) => drop(rules.insert(format!("-:{}", args.layers), json!({}))),
        (false, Some(set)) => drop(rules.insert(args.layers.clone(), set)),
        (false, None) => {}
    }
    for (rule, settings) in old.as_object().into_iter().flatten() {
        rules.entry(rule.clone()).or_insert_with(|| settings.clone());
    }
    DynamicRules::from_json(&Value::Object(rules))
        .map_err(|e| Failure::usage(format!("--layers and --set: {e}")))
}
