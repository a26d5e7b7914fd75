//! `gptq convert`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::Args;
use gptq_models::{
    ConvertOptions, ConvertReport, ConvertedLayer, GgufOptions, GgufType, Target, convert,
    write_gguf,
};
use gptq_pack::{Dtype, Format, gguf::BlockType};
use serde_json::{Value, json};

use crate::{
    args::{DtypeArg, GgufTypeArg, ReadingArgs, TargetArg},
    failure::Failure,
    model_dir,
    terminal::{self, Meter, Table, bytes},
};

/// A quantized model in another format.
#[derive(Args, Debug)]
pub(crate) struct ConvertArgs {
    /// Folder of a quantized model, in any format
    pub(crate) model: PathBuf,
    /// Format of the result; dense for plain weights
    #[arg(long, value_enum)]
    pub(crate) to: TargetArg,
    /// Folder to write, or file for --to gguf; must not exist yet
    #[arg(long, value_name = "DIR|FILE")]
    pub(crate) out: PathBuf,
    /// Take the nearest that the format can hold where it cannot hold a layer exactly
    #[arg(long)]
    pub(crate) lossy: bool,
    /// Type of plain weights, for --to dense [default: that of the model's other weights]
    #[arg(long, value_enum)]
    pub(crate) dtype: Option<DtypeArg>,
    /// Type of packed weights, for --to gguf [default: auto, the smallest that loses nothing]
    #[arg(long, value_enum)]
    pub(crate) gguf_type: Option<GgufTypeArg>,
    /// llama.cpp's name for the way the tokenizer cuts text into words, for --to gguf [default: told
    /// by tokenizer.json]
    #[arg(long, value_name = "NAME")]
    pub(crate) gguf_pre: Option<String>,
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    /// Largest output file, in GB of tensors
    #[arg(long, value_name = "GB", default_value_t = 5.0)]
    pub(crate) max_shard_size: f64,
}

pub(crate) fn run(args: &ConvertArgs, json: bool) -> Result<(), Failure> {
    check(args)?;
    match packed_or_dense(args) {
        Some(target) => folder(args, target, json),
        None => gguf(args, json),
    }
}

/// Options that the target has no use for.
fn check(args: &ConvertArgs) -> Result<(), Failure> {
    let usage = |message| Err(Failure::usage(message));
    match args.gguf_type {
        _ if args.dtype.is_some() && args.to != TargetArg::Dense => {
            usage("--dtype is for --to dense; codes have no type to choose")
        }
        Some(_) if args.to != TargetArg::Gguf => usage("--gguf-type is for --to gguf"),
        _ if args.gguf_pre.is_some() && args.to != TargetArg::Gguf => {
            usage("--gguf-pre is for --to gguf")
        }
        Some(ty) if ty != GgufTypeArg::Auto && !args.lossy => usage(
            "a --gguf-type may round what it does not hold exactly: accept that with --lossy, or \
             leave it at auto, which loses nothing",
        ),
        _ => Ok(()),
    }
}

/// `None` for GGUF, which is a file.
fn packed_or_dense(args: &ConvertArgs) -> Option<Target> {
    Some(match args.to {
        TargetArg::Gguf => return None,
        TargetArg::Dense => Target::Dense(args.dtype.map(|dtype| match dtype {
            DtypeArg::F16 => Dtype::F16,
            DtypeArg::Bf16 => Dtype::BF16,
            DtypeArg::F32 => Dtype::F32,
        })),
        TargetArg::Gptq => Target::Packed(Format::Gptq),
        TargetArg::GptqV2 => Target::Packed(Format::GptqV2),
        TargetArg::Marlin => Target::Packed(Format::Marlin),
        TargetArg::Awq => Target::Packed(Format::Awq),
        TargetArg::CompressedTensors => Target::Packed(Format::CompressedTensors),
    })
}

fn folder(args: &ConvertArgs, target: Target, json: bool) -> Result<(), Failure> {
    let options = ConvertOptions {
        lossy: args.lossy,
        max_shard_bytes: model_dir::gigabytes("--max-shard-size", args.max_shard_size)?,
        ..ConvertOptions::default()
    };
    let checkpoint = model_dir::open(&args.model, &args.reading)?;
    let mut meter = Meter::new("convert");
    let report = convert(&checkpoint, target, &options, &args.out, &mut meter)?;
    meter.finish();
    if json {
        terminal::json(&summary_json(&report, &args.out))
    } else {
        terminal::print(&summary(&report, &args.out));
        Ok(())
    }
}

fn gguf(args: &ConvertArgs, json: bool) -> Result<(), Failure> {
    let ty = match args.gguf_type.unwrap_or(GgufTypeArg::Auto) {
        GgufTypeArg::Auto => GgufType::Auto,
        GgufTypeArg::Q40 => GgufType::Blocks(BlockType::Q4_0),
        GgufTypeArg::Q41 => GgufType::Blocks(BlockType::Q4_1),
        GgufTypeArg::Q50 => GgufType::Blocks(BlockType::Q5_0),
        GgufTypeArg::Q80 => GgufType::Blocks(BlockType::Q8_0),
        GgufTypeArg::F16 => GgufType::F16,
    };
    let checkpoint = model_dir::open(&args.model, &args.reading)?;
    let mut meter = Meter::new("convert");
    let options = GgufOptions { ty, pre: args.gguf_pre.clone(), ..GgufOptions::default() };
    let report = write_gguf(&checkpoint, &args.out, &options, &mut meter)?;
    meter.finish();
    if json {
        return terminal::json(&report);
    }
    let mut types: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for tensor in &report.tensors {
        let (count, bytes) = types.entry(&tensor.ty).or_default();
        *count += 1;
        *bytes += tensor.bytes;
    }
    let mut table = Table::new(&["type", "tensors", "size"]);
    for (ty, (count, size)) in types {
        table.row([ty.to_owned(), count.to_string(), bytes(size)]);
    }
    let linears = report.tensors.iter().filter(|tensor| tensor.loss.is_some()).count();
    let exact = if report.exact { "all exact" } else { "some rounded" };
    terminal::print(&format!(
        "{}{linears} packed linears proven from the file, {exact}\n{}: {} -> {} in {:.1} s\n",
        table.render(),
        args.out.display(),
        bytes(report.source_bytes),
        bytes(report.bytes),
        report.seconds
    ));
    Ok(())
}

/// The layer that changed most.
fn worst(report: &ConvertReport) -> Option<&ConvertedLayer> {
    let lossy = report.layers.iter().filter(|layer| !layer.lossless);
    lossy.max_by(|a, b| a.rms_error.total_cmp(&b.rms_error))
}

fn summary_json(report: &ConvertReport, out: &Path) -> Value {
    json!({
        "out": out.display().to_string(),
        "report": out.join("gptq_report.json").display().to_string(),
        "from": report.from,
        "to": report.to,
        "layers": report.layers.len(),
        "lossless": report.lossless,
        "lossy": report.lossy,
        "proven": report.proven,
        "worst": worst(report),
        "source_bytes": report.source_bytes,
        "output_bytes": report.output_bytes,
        "notices": report.notices,
        "seconds": report.seconds,
    })
}

fn summary(report: &ConvertReport, out: &Path) -> String {
    let header =
        ["from", "to", "layers", "lossless", "lossy", "proven", "before", "after", "seconds"];
    let mut table = Table::new(&header);
    table.row([
        report.from.clone(),
        report.to.clone(),
        report.layers.len().to_string(),
        report.lossless.to_string(),
        report.lossy.to_string(),
        report.proven.to_string(),
        bytes(report.source_bytes),
        bytes(report.output_bytes),
        format!("{:.1}", report.seconds),
    ]);
    let mut text = table.render();
    if let Some(worst) = worst(report) {
        text += &format!(
            "largest loss: {}, rms {:.1e} and at most {:.1e} of its rms weight\n",
            worst.name, worst.rms_error, worst.max_error
        );
    }
    text + &format!("{}: details in gptq_report.json\n", out.display())
}
