//! Products as Triton compiles them. Its code runs on devices, so it checks how fragments,
//! descriptors and swizzles are read here, and that what is right is not refused.
//!
//! `kernels/with_triton.py` makes the texts and says how much shared memory each needs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::{Device, Parameters, noise};
use gptq_ptx_emulator::Launch;
use half::{bf16, f16};

fn f16_bits(x: f32) -> u16 {
    f16::from_f32(x).to_bits()
}

fn bf16_bits(x: f32) -> u16 {
    bf16::from_f32(x).to_bits()
}

/// Small whole numbers: their sums are exact, whatever the order.
fn small(seed: u64, count: usize) -> Vec<f32> {
    noise(seed, count).into_iter().map(|bits| (bits % 31) as f32 - 15.0).collect()
}

struct Case {
    ptx: &'static str,
    kernel: &'static str,
    /// Rows, columns and depth.
    sizes: [usize; 3],
    threads: u32,
    shared: usize,
    bits: fn(f32) -> u16,
}

const PLAIN: Case = Case {
    ptx: include_str!("kernels/triton_plain_f16.ptx"),
    kernel: "product",
    sizes: [64, 32, 128],
    threads: 128,
    shared: 12288,
    bits: f16_bits,
};

impl Case {
    #[track_caller]
    fn check(&self) {
        let [m, n, k] = self.sizes;
        let (w, x) = (small(1, m * k), small(2, n * k));
        let bits = |values: &[f32]| values.iter().map(|x| (self.bits)(*x)).collect::<Vec<_>>();
        let mut device = Device::new(self.ptx);
        let left = match self.kernel {
            "coded" => device.upload(&w.iter().map(|x| *x as i8).collect::<Vec<_>>()),
            _ => device.upload(&bits(&w)),
        };
        let (right, out) = (device.upload(&bits(&x)), device.empty::<f32>(m * n));
        let launch =
            Launch { dynamic_shared: self.shared, ..Launch::new([1, 1, 1], [self.threads, 1, 1]) };
        // Two more parameters point to memory that these kernels do not use.
        let pointers = [right, left, out, 0, 0];
        let parameters = pointers.into_iter().fold(Parameters::default(), Parameters::with);
        let done = device.try_run(self.kernel, &launch, parameters);
        done.unwrap_or_else(|error| panic!("{error}"));
        let dot = |at: usize| {
            let (row, column) = (at / n, at % n);
            (0..k).map(|i| w[row * k + i] * x[column * k + i]).sum::<f32>()
        };
        assert_eq!(device.download::<f32>(out, m * n), (0..m * n).map(dot).collect::<Vec<_>>());
    }
}

#[test]
fn both_factors_in_shared_memory() {
    PLAIN.check();
}

#[test]
fn rows_of_64_bytes() {
    let ptx = include_str!("kernels/triton_rows_of_64.ptx");
    Case { ptx, shared: 8192, ..PLAIN }.check();
}

#[test]
fn rows_of_32_bytes() {
    let ptx = include_str!("kernels/triton_rows_of_32.ptx");
    Case { ptx, sizes: [64, 32, 64], shared: 8192, ..PLAIN }.check();
}

#[test]
fn stages_of_bfloats() {
    let ptx = include_str!("kernels/triton_stages_bf16.ptx");
    Case { ptx, sizes: [64, 64, 256], shared: 49152, bits: bf16_bits, ..PLAIN }.check();
}

#[test]
fn stages_of_rows_of_64_bytes() {
    let ptx = include_str!("kernels/triton_stages_of_64.ptx");
    Case { ptx, sizes: [64, 32, 160], shared: 18432, ..PLAIN }.check();
}

#[test]
fn stages_of_rows_of_32_bytes() {
    let ptx = include_str!("kernels/triton_stages_of_32.ptx");
    Case { ptx, sizes: [64, 32, 80], shared: 9216, ..PLAIN }.check();
}

#[test]
fn left_factor_in_registers() {
    let ptx = include_str!("kernels/triton_registers.ptx");
    Case { ptx, kernel: "coded", sizes: [64, 64, 256], shared: 32768, ..PLAIN }.check();
}

#[test]
fn left_factor_in_registers_as_bfloats() {
    let ptx = include_str!("kernels/triton_registers_bf16.ptx");
    let sizes = [64, 16, 128];
    Case { ptx, kernel: "coded", sizes, shared: 4096, bits: bf16_bits, ..PLAIN }.check();
}

#[test]
fn two_warpgroups() {
    let ptx = include_str!("kernels/triton_two_groups.ptx");
    Case { ptx, sizes: [128, 32, 256], threads: 256, shared: 61440, ..PLAIN }.check();
}

#[test]
fn all_columns() {
    let ptx = include_str!("kernels/triton_wide.ptx");
    Case { ptx, sizes: [64, 256, 64], shared: 65536, bits: bf16_bits, ..PLAIN }.check();
}

#[test]
fn products_of_warps() {
    let ptx = include_str!("kernels/triton_mma.ptx");
    Case { ptx, sizes: [32, 32, 256], shared: 16384, ..PLAIN }.check();
}
