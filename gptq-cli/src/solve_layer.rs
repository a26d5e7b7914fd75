//! `gptq solve-layer`: one linear, from tensors to tensors.

use std::path::{Path, PathBuf};

use clap::Args;
use gptq_core::{Backend, Hessian, QuantizedMatrix, Solved, solve};
use gptq_kernels::CpuBackend;
use gptq_models::Capsule;
use ndarray::Array2;
use safetensors::Dtype;
use serde_json::json;

use crate::{
    args::SettingsArgs,
    failure::Failure,
    settings,
    tensor_file::{self, Out, TensorFile},
    terminal,
};

/// One linear from tensors to tensors.
#[derive(Args, Debug)]
pub(crate) struct SolveLayerArgs {
    /// safetensors with weight [out, in] and either hessian F32 [in, in] or inputs [tokens, in]; for
    /// --gptaq also cross F32 [in, in]
    #[arg(long, value_name = "FILE", required_unless_present = "replay")]
    pub(crate) input: Option<PathBuf>,
    /// A layer that gptq quantize could not solve, with the settings it had there: the file that it
    /// left. To try other settings, give it to --input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["input", "SettingsArgs"])]
    pub(crate) replay: Option<PathBuf>,
    /// safetensors to write: codes, g_idx, scales, zeros, dequantized
    #[arg(long, value_name = "FILE", required_unless_present = "replay")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

pub(crate) fn run(args: &SolveLayerArgs, json: bool) -> Result<(), Failure> {
    let backend = CpuBackend::new();
    let solved = match (&args.replay, &args.input) {
        (Some(capsule), _) => replay(capsule, &backend)?,
        (None, Some(input)) => solve_file(input, &args.settings, &backend)?,
        (None, None) => return Err(Failure::usage("give --input or --replay")),
    };
    if let Some(out) = &args.out {
        write(out, &solved.quantized)?;
    }
    let layer = [solved.quantized.out_features(), solved.quantized.in_features()];
    if json {
        terminal::json(&json!({
            "loss": solved.loss,
            "rtn_loss": solved.rtn_loss,
            "damp_percent": solved.damp.percent,
            "damp_attempts": solved.damp.attempts,
            "damp_floor": solved.damp.floor,
            "dead_columns": solved.dead_columns,
        }))?;
    } else {
        let name = args.out.as_ref().or(args.replay.as_ref()).map(|path| path.display());
        terminal::print(&format!(
            "{}: {} × {}, loss {:.6e} ({:.1}% of rounding's), damp_percent {:.4} after {} \
             attempt(s)\n",
            name.map_or(String::new(), |name| name.to_string()),
            layer[0],
            layer[1],
            solved.loss,
            100.0 * solved.loss / solved.rtn_loss,
            solved.damp.percent,
            solved.damp.attempts
        ));
    }
    Ok(())
}

/// What a run could not solve, once more.
fn replay(path: &Path, backend: &CpuBackend) -> Result<Solved, Failure> {
    let capsule = Capsule::open(path)?;
    terminal::message(&format!("{}: in its run, {}", capsule.layer, capsule.problem));
    let failed = |e: gptq_core::Error| {
        Failure::failed(format!("{}: {}: {e}", path.display(), capsule.layer))
    };
    let hessian = Hessian::from_matrix(capsule.hessian).map_err(failed)?;
    let hessian = match capsule.cross {
        Some(cross) => hessian.with_cross(cross).map_err(failed)?,
        None => hessian,
    };
    solve(capsule.weight.view(), hessian, &capsule.config, backend).map_err(failed)
}

fn solve_file(
    path: &Path,
    settings: &SettingsArgs,
    backend: &CpuBackend,
) -> Result<Solved, Failure> {
    let config = settings::quant_config(settings)?;
    let file = TensorFile::read(path)?;
    let weight = file.floats("weight")?;
    let weight = weight.ok_or_else(|| file.failure("holds no weight [out, in]"))?;
    let mut hessian = hessian(&file, backend).and_then(|h| h.map_err(|e| file.failure(e)))?;
    if config.gptaq_alpha != 0.0 {
        let cross = file.floats("cross")?;
        let cross =
            cross.ok_or_else(|| file.failure("holds no cross [in, in], which --gptaq needs"))?;
        // Given as the mean that the Hessian takes; kept, as everything there, as a sum.
        let samples = hessian.count() as f32 / 2.0;
        hessian = hessian.with_cross(cross * samples).map_err(|e| file.failure(e))?;
    }
    solve(weight.view(), hessian, &config, backend).map_err(|e| file.failure(e))
}

fn write(out: &Path, q: &QuantizedMatrix) -> Result<(), Failure> {
    let integers = |a: &Array2<u8>| a.iter().map(|&v| i32::from(v)).collect::<Vec<i32>>();
    let (codes, zeros) = (integers(&q.codes), integers(&q.zeros));
    let g_idx: Vec<i32> = q.g_idx.iter().map(|&g| g as i32).collect();
    let scales: Vec<f32> = q.scales.iter().copied().collect();
    let dequantized: Vec<f32> = q.dequantize().iter().copied().collect();
    let layer = [q.out_features(), q.in_features()];
    let grids = [q.out_features(), q.groups()];
    tensor_file::write(
        out,
        &[
            Out::new("codes", Dtype::I32, &layer, &codes),
            Out::new("g_idx", Dtype::I32, &[q.in_features()], &g_idx),
            Out::new("scales", Dtype::F32, &grids, &scales),
            Out::new("zeros", Dtype::I32, &grids, &zeros),
            Out::new("dequantized", Dtype::F32, &layer, &dequantized),
        ],
    )
}

/// H as given, or from the inputs of the layer; not both.
fn hessian(
    file: &TensorFile,
    backend: &CpuBackend,
) -> Result<Result<Hessian, gptq_core::Error>, Failure> {
    Ok(match (file.floats("hessian")?, file.floats("inputs")?) {
        (Some(h), None) => Hessian::from_matrix(h),
        (None, Some(x)) => {
            let mut gram = Array2::zeros((x.ncols(), x.ncols()));
            backend
                .accumulate_gram(&mut gram, &x)
                .and_then(|()| Hessian::from_sum(gram, x.nrows() as u64))
        }
        (Some(_), Some(_)) => {
            return Err(file.failure("holds both hessian and inputs; keep one of them"));
        }
        (None, None) => {
            return Err(file.failure("holds neither hessian [in, in] nor inputs [tokens, in]"));
        }
    })
}
