//! Tensor cores, asynchronous copies and the half types.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::{Device, Parameters, noise};
use half::{bf16, f16};

const TENSOR: &str = include_str!("kernels/tensor.ptx");

fn small(seed: u64, count: usize) -> Vec<f32> {
    noise(seed, count).into_iter().map(|bits| (bits % 129) as f32 / 32.0 - 2.0).collect()
}

/// Sums of these numbers are exact, whatever their order.
fn product(kernel: &str, to_bits: impl Fn(f32) -> u16) {
    let k = 80;
    let (a, b) = (small(1, 16 * k), small(2, 8 * k));
    let bits = |values: &[f32]| values.iter().map(|x| to_bits(*x)).collect::<Vec<_>>();
    let mut device = Device::new(TENSOR);
    let (pa, pb) = (device.upload(&bits(&a)), device.upload(&bits(&b)));
    let c = device.empty::<f32>(16 * 8);
    let parameters = Parameters::default().with(pa).with(pb).with(c).with(k as i32);
    device.run(kernel, (1, 32), parameters);
    let expected = (0..16 * 8).map(|at| {
        let (row, column) = (at / 8, at % 8);
        (0..k).map(|i| a[row * k + i] * b[i * 8 + column]).sum::<f32>()
    });
    assert_eq!(device.download::<f32>(c, 16 * 8), expected.collect::<Vec<_>>());
}

#[test]
fn product_of_halves() {
    product("product_f16", |x| f16::from_f32(x).to_bits());
}

#[test]
fn product_of_bfloats() {
    product("product_bf16", |x| bf16::from_f32(x).to_bits());
}

#[test]
fn product_of_bytes() {
    let bytes = |seed, count| noise(seed, count).into_iter().map(|x| x as i8).collect::<Vec<_>>();
    let (a, b) = (bytes(3, 16 * 32), bytes(4, 8 * 32));
    let mut device = Device::new(TENSOR);
    let (pa, pb, c) = (device.upload(&a), device.upload(&b), device.empty::<i32>(128));
    device.run("product_s8", (1, 32), Parameters::default().with(pa).with(pb).with(c));
    let expected = (0..128).map(|at| {
        let (row, column) = (at / 8, at % 8);
        let dot = |i: usize| i32::from(a[row * 32 + i]) * i32::from(b[column * 32 + i]);
        let start = 1 + column % 2 + 2 * (row / 8);
        (0..32).map(dot).sum::<i32>() + start as i32
    });
    assert_eq!(device.download::<i32>(c, 128), expected.collect::<Vec<_>>());
}

#[test]
fn dequantize() {
    let codes = noise(6, 32);
    let mut device = Device::new(TENSOR);
    let (px, out) = (device.upload(&codes), device.empty::<u32>(256));
    let (scale, zero) = (f16::from_f32(0.0625).to_bits(), 8u16);
    device.run(
        "dequantize",
        (1, 32),
        Parameters::default().with(px).with(scale).with(zero).with(out),
    );
    let value = |code: u32| u32::from(f16::from_f32((code as f32 - 8.0) / 16.0).to_bits());
    let expected = codes.iter().flat_map(|q| {
        (0..4).flat_map(move |i| {
            let (low, high) = (value(q >> (4 * i) & 15), value(q >> (4 * i + 16) & 15));
            [high << 16 | low, low << 16 | high]
        })
    });
    assert_eq!(device.download::<u32>(out, 256), expected.collect::<Vec<_>>());
}

#[test]
fn halves() {
    let mut x: Vec<f32> = noise(7, 32).into_iter().map(|b| b as f32 / 1e8 - 20.0).collect();
    // Too large, too small, and just between two halves.
    x[..6].copy_from_slice(&[70000.0, 1e-7, -3e-6, 1.000_488_3, -0.0, 65519.9]);
    let mut device = Device::new(TENSOR);
    let (px, out) = (device.upload(&x), device.empty::<u32>(192));
    device.run("halves", (1, 32), Parameters::default().with(px).with(out));
    for (i, got) in device.download::<u32>(out, 192).chunks(6).enumerate() {
        let [a, b, c] = [x[i], x[(i + 1) % 32], x[(i + 2) % 32]].map(f16::from_f32);
        let (wide, next) = (x[i], x[(i + 1) % 32]);
        let square = |h: f16| u32::from(f16::from_f64(h.to_f64() * h.to_f64() + 1.0).to_bits());
        let pair = |high: u16, low: u16| u32::from(high) << 16 | u32::from(low);
        let fma = f16::from_f64(a.to_f64() * b.to_f64() + c.to_f64());
        assert_eq!(got[0], u32::from(a.to_bits()), "{wide} as half");
        if !fma.is_nan() {
            assert_eq!(got[1], u32::from(fma.to_bits()), "fma of {a}, {b}, {c}");
        }
        let high = bf16::from_f32(wide).to_bits();
        assert_eq!(got[2], pair(high, bf16::from_f32(next).to_bits()));
        assert_eq!(got[3], pair(a.to_bits(), b.to_bits()));
        assert_eq!(got[4], square(a) << 16 | square(b));
        assert_eq!(f32::from_bits(got[5]), a.to_f32());
    }
}
