//! What was typed. No I/O happens here.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, builder::TypedValueParser};
use gptq_models::FallbackThreshold;

use crate::{
    bench::BenchCommand,
    check::{CheckArgs, TargetArgs},
    convert::ConvertArgs,
    device::DeviceArgs,
    doctor::{AcceptArgs, DoctorArgs, SampleArgs},
    plan::PlanArgs,
    policy::PolicyArgs,
    quantize::ResumeArgs,
    report::ReportArgs,
    reproduce::ReproduceArgs,
    requantize::RequantizeArgs,
    solve_layer::SolveLayerArgs,
};

/// Quantize language models with GPTQ, evaluate and run the result.
#[derive(Parser, Debug)]
#[command(name = "gptq", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but a policy failed.\n\
    Try it: gptq demo"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Print one JSON object on stdout and nothing else there
    #[arg(long, global = true, display_order = 100)]
    pub(crate) json: bool,
    /// Threads to use [default: all cores]; results do not depend on it
    #[arg(long, global = true, display_order = 100, value_name = "N", value_parser = clap::value_parser!(u16).range(1..)
        .map(usize::from))]
    pub(crate) threads: Option<usize>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Quantize the model built into this binary and show what it cost
    Demo(DemoArgs),
    /// Turn a model into a GPTQ checkpoint
    Quantize(QuantizeArgs),
    /// Perplexity on a text, and the distance to a reference model
    Eval(EvalArgs),
    /// Continue a prompt
    Generate(GenerateArgs),
    /// How fast this machine is, and a model on it
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Logits for given token ids, for parity checks
    Logits(LogitsArgs),
    /// Quantize one linear layer given as tensors
    SolveLayer(SolveLayerArgs),
    /// What a checkpoint holds: scheme per layer, bytes, zero points as found
    Inspect(InspectArgs),
    /// Store a quantized model in another format: the same integers, proven, or a refusal
    Convert(ConvertArgs),
    /// What changed between two model folders, in any formats
    Diff(DiffArgs),
    /// Whether a result still is what was written: hashes, numbers, an account of every tensor
    Verify(VerifyArgs),
    /// Whether servers will load a folder, or what a run would write
    Check(CheckArgs),
    /// What a calibration text is worth for a model, before hours are spent on it
    Doctor(DoctorArgs),
    /// The report of a run as one page to look at
    Report(ReportArgs),
    /// Do some layers of a result again, with other settings or none, and keep the others
    Requantize(RequantizeArgs),
    /// Make a result again from its recorded settings, and compare the bytes
    Reproduce(ReproduceArgs),
    /// What a run will need and take: memory, disk, time
    Plan(PlanArgs),
}

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Keep the source model and every quantized one in this new folder
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct QuantizeArgs {
    /// Folder in Hugging Face layout: config.json, *.safetensors, tokenizer.json
    pub(crate) model: PathBuf,
    /// Folder to write; must not exist yet
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) targets: TargetArgs,
    #[command(flatten)]
    pub(crate) accept: AcceptArgs,
    #[command(flatten)]
    pub(crate) policy: PolicyArgs,
    #[command(flatten)]
    pub(crate) resume: ResumeArgs,
    /// Exit with code 3 if more linears than this had to fall back
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) max_fallback: usize,
}

/// What a run does, shared by `quantize` and `plan`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// gptq needs calibration text, rtn (round to nearest) needs none
    #[arg(long, value_enum, default_value_t = MethodArg::Gptq)]
    pub(crate) method: MethodArg,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// How packed layers are stored [default: gptq for --sym, gptq_v2 for --asym]
    #[arg(long, value_enum)]
    pub(crate) format: Option<OutFormatArg>,
    /// Rules per module, as JSON or a file of it: {"-:REGEX": {}, "REGEX": {"bits": 8}}
    #[arg(long, value_name = "JSON|FILE")]
    pub(crate) dynamic: Option<String>,
    /// Solve each stage with inputs that have seen the quantized stages before it (the default)
    #[arg(long, overrides_with = "no_true_sequential")]
    pub(crate) true_sequential: bool,
    /// Solve all linears of a block from one pass with its original weights
    #[arg(long, overrides_with = "true_sequential")]
    pub(crate) no_true_sequential: bool,
    /// Tokens that experts are solved with: those routed to them, or all (slower, no expert starves)
    #[arg(long, value_enum, default_value_t = MoeArg::Routed)]
    pub(crate) moe: MoeArg,
    /// Quantize the output head too: 8 bits in groups of 32, unless a --dynamic rule names it
    #[arg(long)]
    pub(crate) lm_head: bool,
    /// How to quantize a linear that too few tokens reach or that no damping makes solvable; none
    /// fails the run
    #[arg(long, value_enum, default_value_t = FallbackArg::Rtn)]
    pub(crate) fallback: FallbackArg,
    /// Fewer tokens than this are too few: a number, or a share of all calibration tokens
    #[arg(long, value_name = "N|X%", default_value = "0.5%", value_parser = fallback_threshold)]
    pub(crate) fallback_threshold: FallbackThreshold,
    /// Also compute a low-rank correction of this rank for every quantized linear
    #[arg(long, value_name = "R", value_parser = count())]
    pub(crate) eora_rank: Option<usize>,
    /// Folder of that adapter, in PEFT layout [default: eora in the output folder]
    #[arg(long, value_name = "DIR", requires = "eora_rank")]
    pub(crate) eora_out: Option<PathBuf>,
    /// Calibration text: a .txt file, or .jsonl with "text", "messages" or "input_ids"; repeatable
    #[arg(long, value_name = "FILE")]
    pub(crate) calib: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) samples: SampleArgs,
    /// Largest output file, in GB of tensors
    #[arg(long, value_name = "GB", default_value_t = 5.0)]
    pub(crate) max_shard_size: f64,
    /// What the factors of products are rounded to on the way through the model; the solver itself
    /// is f32 [default: bf16 where the CPU multiplies it faster, else f32]
    #[arg(long, value_enum, value_name = "P")]
    pub(crate) precision: Option<PassPrecisionArg>,
    /// Memory to stay within, in GB: samples that do not fit wait in a scratch file beside the
    /// result, and wide inputs are computed again
    #[arg(long, value_name = "GB")]
    pub(crate) max_ram: Option<f64>,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    pub(crate) device: Device,
}

/// Settings that decide the codes, shared by `quantize` and `solve-layer`.
#[derive(Args, Debug)]
pub(crate) struct SettingsArgs {
    /// Bits per weight
    #[arg(long, value_name = "B", default_value_t = 4,
        value_parser = clap::builder::PossibleValuesParser::new(["2", "3", "4", "8"])
            .map(|b| b.parse::<u32>().unwrap_or(4)))]
    pub(crate) bits: u32,
    /// Input columns that share a scale; -1 for whole rows
    #[arg(long, value_name = "N", default_value_t = 128, allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-1..))]
    pub(crate) group_size: i64,
    /// Symmetric grid (the default)
    #[arg(long, overrides_with = "asym")]
    pub(crate) sym: bool,
    /// Asymmetric grid with a zero point per group
    #[arg(long, overrides_with = "sym")]
    pub(crate) asym: bool,
    /// Quantize columns by decreasing activation over the whole layer
    #[arg(long)]
    pub(crate) desc_act: bool,
    /// Choose every group's scale before the first column
    #[arg(long)]
    pub(crate) static_groups: bool,
    /// Order columns inside groups, groups by importance (the default where it applies)
    #[arg(long, overrides_with = "no_act_group_aware")]
    pub(crate) act_group_aware: bool,
    /// Quantize columns as they are stored
    #[arg(long, overrides_with = "act_group_aware")]
    pub(crate) no_act_group_aware: bool,
    /// Share of the Hessian's mean diagonal added to it
    #[arg(long, value_name = "X", default_value_t = 0.01)]
    pub(crate) damp_percent: f64,
    /// Added to damp-percent until Cholesky succeeds; 0 gives up at once
    #[arg(long, value_name = "X", default_value_t = 0.01)]
    pub(crate) damp_auto_increment: f64,
    /// Search smaller ranges for the least error to this power (2.4 is usual) [default: off]
    #[arg(long, value_name = "P")]
    pub(crate) mse: Option<f32>,
    /// Steps of that search from the whole range to none of it
    #[arg(long, value_name = "N", default_value_t = 100, requires = "mse",
        value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) mse_grid: u32,
    /// Most of a range that the search takes away
    #[arg(long, value_name = "X", default_value_t = 0.8, requires = "mse")]
    pub(crate) mse_maxshrink: f32,
    /// For 2 bits with --asym: try the nearest zero point only, as the paper's code does, instead
    /// of both neighbours, as GPTQModel does
    #[arg(long, requires = "mse")]
    pub(crate) mse_one_zero: bool,
    /// Columns per lazy update
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::MIN.saturating_add(127))]
    pub(crate) block_size: NonZeroUsize,
    /// Choose a group's scale with the errors of all columns before it, not only of earlier blocks
    #[arg(long, overrides_with = "no_fresh_scales", conflicts_with = "static_groups")]
    pub(crate) fresh_scales: bool,
    /// Choose it with the errors of earlier blocks, as the reference does (the default)
    #[arg(long, overrides_with = "fresh_scales")]
    pub(crate) no_fresh_scales: bool,
    /// GPTAQ: also make up for this share of the error in the inputs [default: off; 0.25 if no
    /// value is given]
    #[arg(long, value_name = "ALPHA", num_args = 0..=1, default_missing_value = "0.25")]
    pub(crate) gptaq: Option<f32>,
    /// FOEM: draw columns back to their original weights by this share [default: off; 0.2 if no
    /// value is given]
    #[arg(long, value_name = "BETA", num_args = 0..=1, default_missing_value = "0.2")]
    pub(crate) foem: Option<f32>,
}

#[derive(Args, Debug)]
pub(crate) struct EvalArgs {
    /// Model folder, dense or quantized
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    /// Text to predict: .txt or .jsonl; repeatable
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) text: Vec<PathBuf>,
    /// Tokens per window [default: 2048, or the model's context if that is shorter]
    #[arg(long, value_name = "N", value_parser = count())]
    pub(crate) seqlen: Option<usize>,
    /// Slide windows by this many tokens instead of laying them side by side
    #[arg(long, value_name = "N", value_parser = count())]
    pub(crate) stride: Option<usize>,
    /// Dense model to compare with: adds kl, top1 and ppl_reference
    #[arg(long, value_name = "DIR")]
    pub(crate) reference: Option<PathBuf>,
    /// Folder of a LoRA adapter in PEFT layout to run on top
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    /// Stop after this many windows
    #[arg(long, value_name = "N", value_parser = count())]
    pub(crate) max_windows: Option<usize>,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

#[derive(Args, Debug)]
pub(crate) struct GenerateArgs {
    /// Model folder, dense or quantized
    pub(crate) model: PathBuf,
    /// Folder of a LoRA adapter in PEFT layout to run on top
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    /// Text to continue
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: String,
    /// Treat the prompt as a user's message and apply the model's chat template
    #[arg(long)]
    pub(crate) chat: bool,
    /// System message for --chat
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub(crate) system: Option<String>,
    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = count())]
    pub(crate) max_new_tokens: usize,
    /// 0 takes the most likely token every time
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub(crate) temperature: f32,
    /// Draw from the K most likely tokens only; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(crate) top_k: usize,
    /// Draw from the likeliest tokens that together reach this probability
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub(crate) top_p: f32,
    /// Same seed, same text
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

#[derive(Args, Debug)]
pub(crate) struct LogitsArgs {
    /// Model folder, dense or quantized
    pub(crate) model: PathBuf,
    /// Folder of a LoRA adapter in PEFT layout to run on top
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    /// safetensors with input_ids, I32 or I64 [batch, tokens]
    #[arg(long, value_name = "FILE")]
    pub(crate) ids: PathBuf,
    /// safetensors to write: logits, F32 [batch, tokens, vocab]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// Model folder, dense or quantized
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    /// One line per layer instead of one per scheme
    #[arg(long, action = ArgAction::SetTrue)]
    pub(crate) layers: bool,
}

#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// Folder that gptq quantize or gptq convert wrote
    pub(crate) model: PathBuf,
    /// Folder it was made from: compare that too, and what was copied
    #[arg(long, value_name = "DIR")]
    pub(crate) source: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct DiffArgs {
    /// A model folder, dense or quantized
    pub(crate) a: PathBuf,
    /// Another
    pub(crate) b: PathBuf,
    /// One line per layer instead of a summary
    #[arg(long)]
    pub(crate) layers: bool,
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
}

/// How to read what others wrote, shared by all commands that read packed models.
#[derive(Args, Debug, Default)]
pub(crate) struct ReadingArgs {
    /// Read zero points by this convention, whatever checkpoint_format says
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) zero_points: Option<FormatArg>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PassPrecisionArg {
    F32,
    Bf16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrecisionArg {
    F32,
    F16,
    Bf16,
    Int8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TargetArg {
    Gptq,
    #[value(name = "gptq_v2")]
    GptqV2,
    Marlin,
    Awq,
    CompressedTensors,
    Gguf,
    Dense,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DtypeArg {
    F16,
    Bf16,
    F32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum GgufTypeArg {
    Auto,
    #[value(name = "q4_0")]
    Q40,
    #[value(name = "q4_1")]
    Q41,
    #[value(name = "q5_0")]
    Q50,
    #[value(name = "q8_0")]
    Q80,
    F16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MethodArg {
    Gptq,
    Rtn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatArg {
    Gptq,
    #[value(name = "gptq_v2")]
    GptqV2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutFormatArg {
    Gptq,
    #[value(name = "gptq_v2")]
    GptqV2,
    Marlin,
    Awq,
    CompressedTensors,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MoeArg {
    Routed,
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FallbackArg {
    Rtn,
    Midpoint,
    Mean,
    Median,
    Stdclip,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    Cpu,
}

/// `12`, or `0.5%`.
fn fallback_threshold(text: &str) -> Result<FallbackThreshold, String> {
    let wrong = || format!("{text:?} is neither a number of tokens nor a share from 0% to 100%");
    match text.strip_suffix('%') {
        None => text.parse().map(FallbackThreshold::Tokens).map_err(|_| wrong()),
        Some(percent) => {
            let share = percent.trim().parse::<f64>().map_err(|_| wrong())? / 100.0;
            let possible = (0.0..=1.0).contains(&share);
            possible.then_some(FallbackThreshold::Share(share)).ok_or_else(wrong)
        }
    }
}

/// A positive number of things.
pub(crate) fn count() -> impl clap::builder::TypedValueParser<Value = usize> {
    clap::value_parser!(u32).range(1..).map(|n| n as usize)
}
