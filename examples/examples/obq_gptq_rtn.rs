//! gptq-core: one small layer by OBQ, GPTQ and round-to-nearest, and pruned to one half.
//!
//! OBQ lets every row choose its own order and pays for it with its own inverse Hessian. GPTQ is
//! OBQ in one order for all rows; the table shows what that gives away and what it saves.
//!
//! `cargo run --release -p gptq-examples --example obq_gptq_rtn`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::time::Instant;

use gptq_core::{
    ActOrder, Bits, Error, Hessian, InverseFactor, Order, Portable, QuantConfig, layer_loss, obq,
    obs_prune, quantize, round_to_nearest,
};
use ndarray::{Array2, ArrayView2};

/// Something that measures its loss.
type Run<'a> = &'a dyn Fn() -> Result<f64, Error>;

fn main() -> Result<(), Error> {
    // Inputs whose channels are correlated, as in a real network.
    let (tokens, inputs, outputs) = (2048, 256, 64);
    let sources = noise(tokens, 32, 1);
    let mixing = noise(32, inputs, 2);
    let x = sources.dot(&mixing) + noise(tokens, inputs, 3) * 0.3;
    let w = noise(outputs, inputs, 4);
    let w = w.view();

    let mut hessian = Hessian::new(inputs);
    hessian.add_batch(x.view(), tokens as u64)?;
    let natural = QuantConfig { act_order: ActOrder::Natural, ..QuantConfig::default() };
    let sorted = QuantConfig { act_order: ActOrder::DescAct, ..natural };
    let factor = hessian.clone().finish(&natural, &Portable)?;
    let sorted_factor = hessian.finish(&sorted, &Portable)?;

    println!("{:<30}  {:>10}  {:>6}  {:>9}", "method", "loss", "of RTN", "ms");
    for bits in [Bits::B4, Bits::B3, Bits::B2] {
        // Grids from the original weights, the same for all; the last line has GPTQ's own.
        let fixed = QuantConfig { bits, static_groups: true, ..natural };
        let fixed_sorted = QuantConfig { bits, static_groups: true, ..sorted };
        let own = QuantConfig { bits, ..natural };
        let gptq = |config, factor| Ok(quantize(w, factor, config, &Portable)?.1);
        let rtn = || {
            let q = round_to_nearest(w, &fixed)?.dequantize();
            layer_loss(w, q.view(), &factor, &Portable)
        };
        let rounding = rtn()?;
        let methods: [(&str, Run<'_>); 5] = [
            ("RTN", &rtn),
            ("GPTQ", &|| gptq(&fixed, &factor)),
            ("GPTQ, sorted inputs", &|| gptq(&fixed_sorted, &sorted_factor)),
            ("OBQ", &|| Ok(obq(w, &factor, &fixed, Order::Greedy)?.1)),
            ("GPTQ, grids on the way", &|| gptq(&own, &factor)),
        ];
        for (name, run) in methods {
            row(&format!("{} bits  {name}", bits.get()), rounding, run)?;
        }
    }

    let half = inputs / 2;
    let by_size = || magnitude(w, half, &factor);
    let dropping = by_size()?;
    row("half zero  smallest weights", dropping, &by_size)?;
    row("half zero  OBS", dropping, &|| Ok(obs_prune(w, &factor, half)?.1))
}

fn row(name: &str, base: f64, run: Run<'_>) -> Result<(), Error> {
    let start = Instant::now();
    let loss = run()?;
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    println!("{name:<30}  {loss:>10.4}  {:>6.3}  {milliseconds:>9.2}", loss / base);
    Ok(())
}

/// The loss of zeroing the `zeros` smallest weights of each row.
fn magnitude(w: ArrayView2<'_, f32>, zeros: usize, factor: &InverseFactor) -> Result<f64, Error> {
    let mut pruned = w.to_owned();
    for mut row in pruned.outer_iter_mut() {
        let mut columns: Vec<usize> = (0..row.len()).collect();
        columns.sort_by(|&a, &b| row[a].abs().total_cmp(&row[b].abs()));
        for &c in &columns[..zeros] {
            row[c] = 0.0;
        }
    }
    layer_loss(w, pruned.view(), factor, &Portable)
}

/// Reproducible numbers in [-1, 1).
fn noise(rows: usize, columns: usize, seed: u32) -> Array2<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    Array2::from_shape_fn((rows, columns), |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    })
}
