//! `gptq bench machine --device cuda`.

use gptq_kernels::cuda::{CudaBackend, Half, Products};
use serde_json::json;

use super::machine::MachineArgs;
use crate::{
    failure::Failure,
    terminal::{self, Meter, Table},
};

/// From one token, by way of each of the kernels, to a long prompt.
const TOKENS: [usize; 8] = [1, 2, 8, 16, 64, 256, 1024, 4096];

/// What f16 rounds away is some 2⁻¹⁰ of the largest result; a wrong kernel is far beyond.
const WRONG: f64 = 0.01;

pub(super) fn run(number: usize, args: &MachineArgs, json: bool) -> Result<(), Failure> {
    let gpu = CudaBackend::open(number)?.with_half(Half::F16);
    let bandwidth = gpu.read_bandwidth()?;
    let (outputs, inputs) = args.shape.unwrap_or((14336, 4096));
    let tokens = if args.tokens.is_empty() { &TOKENS[..] } else { &args.tokens };
    let mut meter = Meter::new("measuring");
    let products = Products::new(&gpu, outputs, inputs)?;
    let mut table = Table::new(&[
        "tokens",
        "4-bit us",
        "f16 us",
        "times as fast",
        "TFLOP/s",
        "weights GB/s",
        "of bandwidth",
        "error",
    ]);
    let (mut figures, mut wrong) = (Vec::new(), None);
    for (i, &many) in tokens.iter().enumerate() {
        let of = products.measure(many)?;
        meter.set((i + 1) as f64 / tokens.len() as f64, &format!("{many} tokens"));
        table.row([
            many.to_string(),
            format!("{:.1}", of.packed * 1e6),
            format!("{:.1}", of.plain * 1e6),
            format!("{:.2}", of.plain / of.packed),
            format!("{:.1}", of.flops / 1e12),
            format!("{:.0}", of.read / 1e9),
            format!("{:.0}%", 100.0 * of.read / bandwidth),
            format!("{:.1e}", of.error),
        ]);
        figures.push(json!({
            "tokens": many,
            "packed_seconds": of.packed,
            "f16_seconds": of.plain,
            "flops": of.flops,
            "weight_bytes_per_second": of.read,
            "share_of_bandwidth": of.read / bandwidth,
            "error": of.error,
        }));
        if of.error > WRONG {
            wrong = wrong.or(Some((many, of.error)));
        }
    }
    meter.finish();
    if json {
        terminal::json(&json!({
            "gpu": gpu.describe(),
            "read_bandwidth": bandwidth,
            "shape": [outputs, inputs],
            "products": figures,
        }))?;
    } else {
        terminal::print(&table.render());
        terminal::print(&format!(
            "{}; memory reads {:.0} GB/s; 4-bit layers of {outputs} x {inputs}, groups of 128\n",
            gpu.describe(),
            bandwidth / 1e9
        ));
    }
    match wrong {
        None => Ok(()),
        Some((tokens, error)) => Err(Failure::failed(format!(
            "products of {tokens} tokens are off by {error:.1e} of the largest result, and {WRONG} \
             is the limit: this GPU or its driver computes wrongly, or our kernels do on it; use \
             --device cpu, and please report it"
        ))),
    }
}
