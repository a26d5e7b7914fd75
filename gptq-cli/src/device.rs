//! Where a model runs: `--device` and `--precision`.

use clap::Args;
use gptq_kernels::{CpuBackend, Isa, Precision, measure};
use gptq_models::Checkpoint;
use gptq_pack::PackedBackend;

use crate::{args::PrecisionArg, failure::Failure};

#[derive(Args, Debug)]
pub(crate) struct DeviceArgs {
    /// Where to compute: cpu, or cuda for an NVIDIA GPU, cuda:1 for the second one
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device)]
    pub(crate) device: Device,
    /// What products are made of: f32 is exact, int8 rounds activations to bytes (CPU), f16 and bf16
    /// round factors [default: f32 for eval and logits, int8 for generate and bench where the CPU
    /// has vectors; on a GPU f16, or bf16 if that is the model's type]
    #[arg(long, value_enum, value_name = "P")]
    pub(crate) precision: Option<PrecisionArg>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    Cpu,
    /// With its number.
    Cuda(usize),
}

pub(crate) fn device(text: &str) -> Result<Device, String> {
    let number = match text {
        "cpu" => return Ok(Device::Cpu),
        "cuda" => Some(0),
        _ => text.strip_prefix("cuda:").and_then(|number| number.parse().ok()),
    };
    number.map(Device::Cuda).ok_or_else(|| "expected cpu, cuda, or cuda:N".to_owned())
}

/// A backend that commands can say something about.
pub(crate) trait Named: PackedBackend + Clone {
    /// `f32`, `bf16`, …
    fn precision_name(&self) -> &'static str;
    /// `avx512`, or the GPU's name.
    fn instructions(&self) -> String;
    /// `int8 on amx`.
    fn describe(&self) -> String {
        format!("{} on {}", self.precision_name(), self.instructions())
    }
    /// The same with products of f32.
    fn exact(&self) -> Self;
    /// Bytes per second that it reads at most.
    fn read_bandwidth(&self) -> Result<f64, Failure>;
}

impl Named for CpuBackend {
    fn precision_name(&self) -> &'static str {
        self.precision().name()
    }

    fn instructions(&self) -> String {
        self.isa().name().to_owned()
    }

    fn exact(&self) -> Self {
        (*self).with_precision(Precision::F32)
    }

    fn read_bandwidth(&self) -> Result<f64, Failure> {
        Ok(measure::read_bandwidth(rayon::current_num_threads()))
    }
}

/// What a command does with a model's folder on a backend, whichever it is.
pub(crate) trait Work {
    fn run<B: Named>(&self, checkpoint: &Checkpoint, backend: B) -> Result<(), Failure>;
}

impl DeviceArgs {
    /// Does the work on the device that was asked for. `unless_told` is the precision on a CPU.
    pub(crate) fn run(
        &self,
        checkpoint: &Checkpoint,
        unless_told: PrecisionArg,
        work: &impl Work,
    ) -> Result<(), Failure> {
        match self.device {
            Device::Cpu => work.run(checkpoint, cpu(self.precision.unwrap_or(unless_told))?),
            Device::Cuda(number) => cuda(number, self.precision, checkpoint, work),
        }
    }
}

/// This CPU with products of these numbers.
pub(crate) fn cpu(precision: PrecisionArg) -> Result<CpuBackend, Failure> {
    Ok(CpuBackend::new().with_precision(match precision {
        PrecisionArg::F32 => Precision::F32,
        PrecisionArg::Bf16 => Precision::Bf16,
        PrecisionArg::Int8 => Precision::Int8,
        PrecisionArg::F16 => {
            return Err(Failure::usage("--precision f16 needs --device cuda; CPUs have bf16"));
        }
    }))
}

/// What text is generated with, unless told: bytes, where the CPU multiplies them faster.
pub(crate) fn fast() -> PrecisionArg {
    if Isa::best() != Isa::SCALAR { PrecisionArg::Int8 } else { PrecisionArg::F32 }
}

#[cfg(not(feature = "cuda"))]
pub(crate) fn without_cuda() -> Failure {
    Failure::usage(
        "this gptq was built without CUDA; build it with --features cuda, or use --device cpu",
    )
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize, _: Option<PrecisionArg>, _: &Checkpoint, _: &impl Work) -> Result<(), Failure> {
    Err(without_cuda())
}

#[cfg(feature = "cuda")]
fn cuda(
    number: usize,
    precision: Option<PrecisionArg>,
    checkpoint: &Checkpoint,
    work: &impl Work,
) -> Result<(), Failure> {
    use gptq_kernels::cuda::{CudaBackend, Half};

    if precision == Some(PrecisionArg::Int8) {
        return Err(Failure::usage("--precision int8 is for --device cpu; use f16, bf16 or f32"));
    }
    let gpu = CudaBackend::open(number)?;
    let gpu = match precision {
        Some(PrecisionArg::F32) => gpu.exact(),
        Some(PrecisionArg::Bf16) => gpu.with_half(Half::Bf16),
        None if is_bf16(checkpoint) => gpu.with_half(Half::Bf16),
        _ => gpu.with_half(Half::F16),
    };
    work.run(checkpoint, gpu)
}

/// Whether the model says that bf16 is its type: its activations may leave the range of f16.
#[cfg(feature = "cuda")]
fn is_bf16(checkpoint: &Checkpoint) -> bool {
    let config = checkpoint.config();
    let of = |config: &serde_json::Value| {
        let name = config.get("torch_dtype").or_else(|| config.get("dtype"))?.as_str()?;
        Some(name.ends_with("bfloat16"))
    };
    of(config).or_else(|| config.get("text_config").and_then(of)).unwrap_or(false)
}

#[cfg(feature = "cuda")]
impl Named for gptq_kernels::cuda::CudaBackend {
    fn precision_name(&self) -> &'static str {
        self.precision_name()
    }

    fn instructions(&self) -> String {
        self.describe()
    }

    fn exact(&self) -> Self {
        self.clone().exact()
    }

    fn read_bandwidth(&self) -> Result<f64, Failure> {
        Ok(self.read_bandwidth()?)
    }
}
