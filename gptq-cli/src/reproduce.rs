//! `gptq reproduce`: the same run again, and whether it gives the same bytes.

use std::{collections::BTreeSet, path::PathBuf};

use clap::Args;
use gptq_calib::SampleSpec;
use gptq_kernels::{CpuBackend, Isa, Precision};
use gptq_models::{
    Checkpoint, Method, QuantizeOptions, Recipe, Report, Staging, quantize, source_hashes,
};
use serde_json::json;

use crate::{
    device::Named,
    doctor,
    failure::Failure,
    summary,
    terminal::{self, Meter, Table},
};

/// Make a result again from its recorded settings and compare.
#[derive(Args, Debug)]
pub(crate) struct ReproduceArgs {
    /// Folder that gptq quantize wrote
    pub(crate) result: PathBuf,
    /// Folder of the original model
    #[arg(long, value_name = "DIR")]
    pub(crate) source: PathBuf,
    /// The calibration text of the run, in the same order; repeatable
    #[arg(long, value_name = "FILE")]
    pub(crate) calib: Vec<PathBuf>,
    /// Keep the second result in this new folder
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

pub(crate) fn run(args: &ReproduceArgs, json: bool) -> Result<(), Failure> {
    args.out.as_deref().map(Staging::check).transpose()?;
    let report = Report::open(&args.result)?;
    let (options, backend) = recipe(&report, args)?;
    let source = Checkpoint::open(&args.source)?;
    same_source(&report, &source, args)?;
    let samples = match options.method {
        Method::Rtn => Vec::new(),
        Method::Gptq => samples(&report, &source, args)?,
    };
    let folder = match &args.out {
        Some(_) => None,
        None => Some(beside(args)?),
    };
    let out = match (&args.out, &folder) {
        (Some(out), _) => out.clone(),
        (None, Some(folder)) => folder.path().join("again"),
        (None, None) => return Err(Failure::usage("give --out")),
    };
    let mut meter = Meter::new("reproduce");
    let again = quantize(&source, &samples, &backend, &options, &out, &mut meter)?;
    meter.finish();
    let different = differences(&report, &again);
    if json {
        terminal::json(&json!({
            "reproduced": different.is_empty(),
            "tensors": report.sha256.len(),
            "files": report.files.len(),
            "different": different,
        }))?;
    } else if different.is_empty() {
        terminal::print(&format!(
            "{}: reproduced, {} tensors and {} files with the same hashes\n",
            args.result.display(),
            report.sha256.len(),
            report.files.len()
        ));
    } else {
        let mut table = Table::new(&["differs"]);
        different.iter().for_each(|name| table.row([name.clone()]));
        terminal::print(&table.render());
    }
    match different.len() {
        0 => Ok(()),
        n => Err(Failure::failed(format!(
            "{}: not reproduced, {n} tensors or files differ",
            args.result.display()
        ))),
    }
}

/// The recorded settings, and this CPU computing as the one of the run did.
fn recipe(report: &Report, args: &ReproduceArgs) -> Result<(QuantizeOptions, CpuBackend), Failure> {
    let failed = |message: String| Failure::failed(format!("{}: {message}", args.result.display()));
    if report.kept.is_some() {
        return Err(failed(
            "is an earlier result with some layers done again, so no single run makes it; reproduce \
             the earlier one, and requantize"
                .to_owned(),
        ));
    }
    let recipe: Recipe = serde_json::from_value(report.settings.clone())
        .map_err(|e| failed(format!("its report does not hold all settings: {e}")))?;
    let mut options = recipe.options()?;
    let tool = QuantizeOptions::default().tool;
    if recipe.tool != tool {
        terminal::message(&format!(
            "note: it was made by {}, this is {tool}; bytes may differ",
            recipe.tool
        ));
        options.tool = recipe.tool.clone();
    }
    let names = recipe.computed.split_once(" on ");
    let isa = |name| Isa::available().into_iter().find(|isa| isa.name() == name);
    let precision = |name| [Precision::F32, Precision::Bf16].into_iter().find(|p| p.name() == name);
    let backend =
        names.and_then(|(p, i)| Some(CpuBackend::with_isa(isa(i)?).with_precision(precision(p)?)));
    let backend = backend.ok_or_else(|| {
        let can: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
        failed(format!(
            "was computed with {}; this CPU has {}, whose sums round otherwise",
            recipe.computed,
            can.join(", ")
        ))
    })?;
    options.computed = backend.describe();
    Ok((options, backend))
}

/// Refuses another model than that of the run, before time goes into it.
fn same_source(report: &Report, source: &Checkpoint, args: &ReproduceArgs) -> Result<(), Failure> {
    let there = source_hashes(source)?;
    let names: BTreeSet<&String> = there.keys().chain(report.source.keys()).collect();
    let other: Vec<&str> = names
        .into_iter()
        .filter(|name| there.get(*name) != report.source.get(*name))
        .map(String::as_str)
        .collect();
    if other.is_empty() {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "{}: {} not as in the run; give the folder it was made from",
        args.source.display(),
        other.join(", ")
    )))
}

/// The same tokens, or a refusal.
fn samples(
    report: &Report,
    source: &Checkpoint,
    args: &ReproduceArgs,
) -> Result<Vec<Vec<u32>>, Failure> {
    let recorded = summary::calibration(report, &args.result)?;
    let names: Vec<&str> = recorded.sources.iter().map(|source| source.name.as_str()).collect();
    if args.calib.is_empty() {
        return Err(Failure::usage(format!(
            "the run was calibrated on {}; give each with --calib, in this order",
            names.join(", ")
        )));
    }
    let (n_samples, seq_len, seed) = (recorded.n_samples, recorded.seq_len, recorded.seed);
    let spec = SampleSpec { n_samples, seq_len, seed };
    let (set, _) = doctor::draw(&args.source, source, &args.calib, &spec)?;
    if set.provenance.ids_sha256 != recorded.ids_sha256 {
        let mut changed = Vec::new();
        for (recorded, given) in recorded.sources.iter().zip(&set.provenance.sources) {
            if recorded.sha256 != given.sha256 {
                changed.push(format!("{} is not {} of the run", given.name, recorded.name));
            }
        }
        return Err(Failure::failed(format!(
            "these are not the tokens that {} was calibrated on{}; give {} as they were",
            args.result.display(),
            changed.iter().map(|change| format!("; {change}")).collect::<String>(),
            names.join(", ")
        )));
    }
    Ok(set.samples)
}

/// A folder that goes away, on the disk of the result.
fn beside(args: &ReproduceArgs) -> Result<tempfile::TempDir, Failure> {
    let parent = args.result.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(std::path::Path::new("."));
    tempfile::Builder::new().prefix(".gptq-reproduce-").tempdir_in(parent).map_err(|e| {
        Failure::failed(format!("cannot create a folder in {}: {e}; give --out", parent.display()))
    })
}

/// Names of what is not the same, tensors and files.
fn differences(recorded: &Report, again: &Report) -> Vec<String> {
    let mut different = BTreeSet::new();
    for (a, b) in [(&recorded.sha256, &again.sha256), (&recorded.files, &again.files)] {
        let names = a.keys().chain(b.keys()).filter(|name| a.get(*name) != b.get(*name));
        different.extend(names.cloned());
    }
    different.into_iter().collect()
}
