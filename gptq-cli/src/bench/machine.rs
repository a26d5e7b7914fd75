//! `gptq bench machine`.

use clap::Args;
use gptq_kernels::{Isa, measure};
use serde_json::json;

use crate::{
    args::count,
    device::{Device, device},
    failure::Failure,
    terminal::{self, Table},
};

#[derive(Args, Debug)]
pub(crate) struct MachineArgs {
    /// What to measure: cpu, or cuda for an NVIDIA GPU, cuda:1 for the second one
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device)]
    pub(crate) device: Device,
    /// With --device cuda: outputs and inputs of the layers that are multiplied [default: 14336x4096]
    #[arg(long, value_name = "OUTxIN", value_parser = shape)]
    pub(crate) shape: Option<(usize, usize)>,
    /// With --device cuda: tokens at a time [default: 1,2,8,16,64,256,1024,4096]
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = count())]
    pub(crate) tokens: Vec<usize>,
}

/// Sizes at most: an index has 32 bits, and a typing error should not fill a machine.
const MOST: usize = 1 << 18;

fn shape(text: &str) -> Result<(usize, usize), String> {
    let side = |text: &str| text.parse().ok().filter(|side| (1..=MOST).contains(side));
    text.split_once(['x', 'X'])
        .and_then(|(outputs, inputs)| Some((side(outputs)?, side(inputs)?)))
        .ok_or_else(|| format!("expected two numbers up to {MOST}, like 14336x4096"))
}

/// A figure with one thread and with all.
struct Figure {
    name: &'static str,
    key: &'static str,
    unit: &'static str,
    one: Option<f64>,
    all: Option<f64>,
}

pub(crate) fn run(args: &MachineArgs, json: bool) -> Result<(), Failure> {
    match args.device {
        Device::Cuda(number) => gpu(number, args, json),
        Device::Cpu if args.shape.is_some() || !args.tokens.is_empty() => {
            Err(Failure::usage("--shape and --tokens are for --device cuda"))
        }
        Device::Cpu => cpu(json),
    }
}

#[cfg(feature = "cuda")]
use super::gpu::run as gpu;

#[cfg(not(feature = "cuda"))]
fn gpu(_: usize, _: &MachineArgs, _: bool) -> Result<(), Failure> {
    Err(crate::device::without_cuda())
}

fn cpu(json: bool) -> Result<(), Failure> {
    let (isa, threads) = (Isa::best(), rayon::current_num_threads());
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let alone = alone.map_err(|e| Failure::failed(format!("cannot start a thread: {e}")))?;
    let figures = [
        Figure {
            name: "f32 products, 2048 x 2048 x 2048",
            key: "f32_products",
            unit: "GF/s",
            one: Some(alone.install(|| measure::f32_products(isa))),
            all: Some(measure::f32_products(isa)),
        },
        Figure {
            name: "bf16 products, the same, packing included",
            key: "bf16_products",
            unit: "GF/s",
            one: alone.install(|| measure::bf16_products(isa)),
            all: measure::bf16_products(isa),
        },
        Figure {
            name: "int8 dot products, registers alone",
            key: "int8_dots",
            unit: "Gop/s",
            one: measure::int8_dots(isa, 1),
            all: measure::int8_dots(isa, threads),
        },
        Figure {
            name: "reading memory, 512 MiB",
            key: "read_bandwidth",
            unit: "GB/s",
            one: Some(measure::read_bandwidth(1)),
            all: Some(measure::read_bandwidth(threads)),
        },
    ];
    if json {
        let mut all = json!({"instructions": isa.name(), "threads": threads});
        for figure in &figures {
            all[figure.key] = json!({"one_thread": figure.one, "all_threads": figure.all});
        }
        return terminal::json(&all);
    }
    let mut table = Table::new(&["measured", "unit", "1 thread", &format!("{threads} threads")]);
    for Figure { name, unit, one, all, .. } in &figures {
        let show = |x: &Option<f64>| x.map_or("-".to_owned(), |x| format!("{:.1}", x / 1e9));
        table.row([name.to_string(), unit.to_string(), show(one), show(all)]);
    }
    terminal::print(&table.render());
    terminal::print(&format!("instructions: {}\n", isa.name()));
    Ok(())
}
