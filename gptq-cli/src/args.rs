//! What was typed. No I/O happens here.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, builder::TypedValueParser};

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
    /// Logits for given token ids, for parity checks
    Logits(LogitsArgs),
    /// Quantize one linear layer given as tensors
    SolveLayer(SolveLayerArgs),
    /// What a checkpoint holds: scheme per layer, bytes, zero points as found
    Inspect(InspectArgs),
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
    /// gptq needs calibration text, rtn (round to nearest) needs none
    #[arg(long, value_enum, default_value_t = MethodArg::Gptq)]
    pub(crate) method: MethodArg,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// How zero points are stored [default: gptq for --sym, gptq_v2 for --asym]
    #[arg(long, value_enum)]
    pub(crate) format: Option<FormatArg>,
    /// Rules per module, as JSON or a file of it: {"-:REGEX": {}, "REGEX": {"bits": 8}}
    #[arg(long, value_name = "JSON|FILE")]
    pub(crate) dynamic: Option<String>,
    /// Calibration text: a .txt file, or .jsonl with "text", "messages" or "input_ids"; repeatable
    #[arg(long, value_name = "FILE")]
    pub(crate) calib: Vec<PathBuf>,
    /// Calibration samples
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = count())]
    pub(crate) nsamples: usize,
    /// Tokens per sample [default: 2048, or the model's context if that is shorter]
    #[arg(long, value_name = "N", value_parser = count())]
    pub(crate) seqlen: Option<usize>,
    /// Seed of the windows drawn from the text
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Largest output file, in GB of tensors
    #[arg(long, value_name = "GB", default_value_t = 5.0)]
    pub(crate) max_shard_size: f64,
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
}

#[derive(Args, Debug)]
pub(crate) struct EvalArgs {
    /// Model folder, dense or GPTQ
    pub(crate) model: PathBuf,
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
    /// Stop after this many windows
    #[arg(long, value_name = "N", value_parser = count())]
    pub(crate) max_windows: Option<usize>,
}

#[derive(Args, Debug)]
pub(crate) struct GenerateArgs {
    /// Model folder, dense or GPTQ
    pub(crate) model: PathBuf,
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
}

#[derive(Args, Debug)]
pub(crate) struct LogitsArgs {
    /// Model folder, dense or GPTQ
    pub(crate) model: PathBuf,
    /// safetensors with input_ids, I32 or I64 [batch, tokens]
    #[arg(long, value_name = "FILE")]
    pub(crate) ids: PathBuf,
    /// safetensors to write: logits, F32 [batch, tokens, vocab]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct SolveLayerArgs {
    /// safetensors with weight [out, in] and either hessian F32 [in, in] or inputs [tokens, in]
    #[arg(long, value_name = "FILE")]
    pub(crate) input: PathBuf,
    /// safetensors to write: codes, g_idx, scales, zeros, dequantized
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// Model folder, dense or GPTQ
    pub(crate) model: PathBuf,
    /// One line per layer instead of one per scheme
    #[arg(long, action = ArgAction::SetTrue)]
    pub(crate) layers: bool,
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
pub(crate) enum Device {
    Cpu,
}

/// A positive number of things.
fn count() -> impl clap::builder::TypedValueParser<Value = usize> {
    clap::value_parser!(u32).range(1..).map(|n| n as usize)
}
