//! `gptq check`, and what `gptq quantize --target` asks before and after a run.

use std::path::{Path, PathBuf};

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use gptq_models::{
    Architecture, Checkpoint, Engine, Method, Objection, QuantizeOptions, Setting, Severity, check,
    check_run, quantization_config,
};
use serde_json::{Value, json};

use crate::{
    args::{OutFormatArg, SettingsArgs, count},
    failure::Failure,
    quantize::{dynamic, format},
    settings,
    terminal::{self, Table},
};

/// Whether servers will load a quantized folder, or what a run would write.
#[derive(Args, Debug)]
#[command(
    after_help = "With --target, exit code 3 if one of them refuses. Without, every target is \
    looked at, and exit code 3 means that none would load it.\n\
    The rules are read from the engines' sources and dated (--json says where and when); nothing is \
    run. Settings of a run matter for a folder that is not quantized yet, and are ignored else."
)]
pub(crate) struct CheckArgs {
    /// Model folder, quantized in any format, or dense
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) targets: TargetArgs,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// How packed layers would be stored [default: gptq for --sym, gptq_v2 for --asym]
    #[arg(long, value_enum)]
    pub(crate) format: Option<OutFormatArg>,
    /// Rules per module, as for quantize
    #[arg(long, value_name = "JSON|FILE")]
    pub(crate) dynamic: Option<String>,
    /// The output head would be quantized too
    #[arg(long)]
    pub(crate) lm_head: bool,
}

/// Who is to load the result.
#[derive(Args, Debug)]
pub(crate) struct TargetArgs {
    /// Engine that must load the result; repeatable. quantize refuses settings that it would not
    /// load, and looks again at what was written
    #[arg(long, value_name = "ENGINE",
        value_parser = PossibleValuesParser::new(Engine::ALL.map(Engine::as_str))
            .try_map(|name| name.parse::<Engine>()))]
    pub(crate) target: Vec<Engine>,
    /// Devices that share every matrix there (tensor parallel)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count())]
    pub(crate) tp: usize,
}

pub(crate) fn run(args: &CheckArgs, json: bool) -> Result<(), Failure> {
    let checkpoint = Checkpoint::open(&args.model)?;
    let TargetArgs { target, tp } = &args.targets;
    let engines = if target.is_empty() { &Engine::ALL[..] } else { target };
    let quantized = quantization_config(&checkpoint)?.is_some();
    let said = if quantized {
        check(&checkpoint, engines, *tp)?
    } else {
        check_run(&checkpoint, &options(args, &checkpoint)?, engines, *tp)?
    };
    let refused = |engine: &Engine| refusals(&said).any(|o| o.engine == *engine);
    if json {
        terminal::json(&to_json(args, quantized, engines, &said))?;
    } else {
        terminal::print(&to_text(args, quantized, engines, &said));
    }
    let refusing: Vec<&str> =
        engines.iter().filter(|e| refused(e)).map(|engine| engine.as_str()).collect();
    let failed = match target.is_empty() {
        true => refusing.len() == engines.len(),
        false => !refusing.is_empty(),
    };
    match failed {
        false => Ok(()),
        true => Err(Failure::policy(format!(
            "{}: {} will not load {}",
            args.model.display(),
            refusing.join(", "),
            if quantized { "it" } else { "what these settings write" }
        ))),
    }
}

/// Settings of the run that is thought of.
fn options(args: &CheckArgs, checkpoint: &Checkpoint) -> Result<QuantizeOptions, Failure> {
    let config = settings::quant_config(&args.settings)?;
    Ok(QuantizeOptions {
        // A family that is not known can only be rounded.
        method: match Architecture::of(checkpoint) {
            Ok(_) => Method::Gptq,
            Err(_) => Method::Rtn,
        },
        format: format(args.format, config.sym),
        config,
        dynamic: args.dynamic.as_deref().map(dynamic).transpose()?.unwrap_or_default(),
        lm_head: args.lm_head,
        ..QuantizeOptions::default()
    })
}

/// Stops a run whose result a target would not load; says what it warns of.
pub(crate) fn before(
    checkpoint: &Checkpoint,
    options: &QuantizeOptions,
    targets: &TargetArgs,
) -> Result<(), Failure> {
    let TargetArgs { target, tp } = targets;
    if target.is_empty() {
        return match tp {
            1 => Ok(()),
            tp => Err(Failure::usage(format!("--tp {tp} is about a --target; name one"))),
        };
    }
    let said = check_run(checkpoint, options, target, *tp)?;
    for objection in said.iter().filter(|o| o.severity == Severity::Warns) {
        terminal::message(&format!("note: {objection}"));
    }
    match refusals(&said).next() {
        None => Ok(()),
        Some(_) => Err(Failure::failed(format!(
            "nothing was read or written: with these settings the result would not load.\n{}",
            lines(&said)
        ))),
    }
}

/// The same about what was written.
pub(crate) fn after(out: &Path, targets: &TargetArgs) -> Result<(), Failure> {
    let TargetArgs { target, tp } = targets;
    if target.is_empty() {
        return Ok(());
    }
    let said = check(&Checkpoint::open(out)?, target, *tp)?;
    match refusals(&said).next() {
        None => Ok(()),
        Some(_) => Err(Failure::policy(format!(
            "the result is in {}, but a target will not load it.\n{}",
            out.display(),
            lines(&said)
        ))),
    }
}

fn refusals(said: &[Objection]) -> impl Iterator<Item = &Objection> {
    said.iter().filter(|objection| objection.severity == Severity::Refuses)
}

/// Refusals, each with the way out.
fn lines(said: &[Objection]) -> String {
    refusals(said)
        .map(|objection| paragraph(objection) + "\n")
        .collect::<String>()
        .trim_end()
        .into()
}

fn to_json(args: &CheckArgs, quantized: bool, engines: &[Engine], said: &[Objection]) -> Value {
    let target = |engine: &Engine| {
        let said: Vec<&Objection> = said.iter().filter(|o| o.engine == *engine).collect();
        let loads = said.iter().all(|o| o.severity == Severity::Warns);
        json!({"target": engine, "loads": loads, "objections": said})
    };
    json!({
        "model": args.model.display().to_string(),
        "quantized": quantized,
        "tp": args.targets.tp,
        "targets": engines.iter().map(target).collect::<Vec<_>>(),
    })
}

fn to_text(args: &CheckArgs, quantized: bool, engines: &[Engine], said: &[Objection]) -> String {
    let devices = match args.targets.tp {
        1 => "one device".to_owned(),
        n => format!("{n} devices"),
    };
    let what = if quantized { "the folder as it is" } else { "what a run would write" };
    let mut text = format!("{}: {what}, on {devices}\n", args.model.display());
    let mut table = Table::new(&["target", "loads", "refusals", "warnings"]);
    for engine in engines {
        let count = |severity| {
            said.iter().filter(|o| (o.engine, o.severity) == (*engine, severity)).count()
        };
        let (refusals, warnings) = (count(Severity::Refuses), count(Severity::Warns));
        let loads = if refusals == 0 { "yes" } else { "no" };
        table.row([
            engine.to_string(),
            loads.to_owned(),
            refusals.to_string(),
            warnings.to_string(),
        ]);
    }
    text += &table.render();
    for objection in said {
        text += "\n";
        text += &paragraph(objection);
    }
    if !said.is_empty() {
        text += "\n";
    }
    text
}

fn paragraph(objection: &Objection) -> String {
    let Objection { engine, severity, rule, layer, layers, found, why, nearest, .. } = objection;
    let verb = match severity {
        Severity::Refuses => "refuses",
        Severity::Warns => "warns",
    };
    let mut text = format!("{engine} {verb} ({rule}): {found}\n  {why}");
    match (layer, layers) {
        (Some(layer), 1) => text += &format!("\n  layer: {layer}"),
        (Some(layer), n) => text += &format!("\n  {n} layers, the first: {layer}"),
        (None, _) => {}
    }
    if *severity == Severity::Refuses {
        let nearest: Vec<String> = nearest.iter().map(Setting::to_string).collect();
        text += &match nearest.is_empty() {
            true => "\n  nearest setting that loads: none was found".to_owned(),
            false => format!("\n  nearest setting that loads: {}", nearest.join(", ")),
        };
    }
    text
}
