//! Usual kernels give what plain Rust gives.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::{Device, Parameters, noise};
use gptq_ptx_emulator::{Launch, Order};

const BASICS: &str = include_str!("kernels/basics.ptx");

fn floats(seed: u64, count: usize) -> Vec<f32> {
    noise(seed, count).into_iter().map(|bits| bits as f32 / u32::MAX as f32 * 4.0 - 2.0).collect()
}

#[test]
fn saxpy() {
    let mut device = Device::new(BASICS);
    let (x, y) = (floats(1, 1000), floats(2, 1000));
    let (px, py) = (device.upload(&x), device.upload(&y));
    let parameters = Parameters::default().with(1000i32).with(1.5f32).with(px).with(py);
    let stats = device.run("saxpy", (4, 256), parameters);
    assert_eq!((stats.blocks, stats.threads), (4, 1024));
    let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| 1.5f32.mul_add(*x, *y)).collect();
    assert_eq!(device.download::<f32>(py, 1000), expected);
}

#[test]
fn sums_by_shuffles_and_shared_memory() {
    let mut device = Device::new(BASICS);
    let x: Vec<f32> = (0..5000).map(|i| (i % 17) as f32).collect();
    let (px, sums) = (device.upload(&x), device.empty::<f32>(3));
    device.run("block_sum", (3, 256), Parameters::default().with(px).with(5000i32).with(sums));
    let total: f32 = device.download::<f32>(sums, 3).iter().sum();
    assert_eq!(total, x.iter().sum::<f32>());
}

#[test]
fn atomics() {
    let mut device = Device::new(BASICS);
    let x: Vec<u32> = noise(3, 700).iter().map(|bits| bits % 100).collect();
    let px = device.upload(&x);
    let (bins, total) = (device.upload(&[0u32; 16]), device.upload(&[0f32]));
    let greatest = device.upload(&[0u32]);
    let parameters =
        Parameters::default().with(px).with(700i32).with(bins).with(total).with(greatest);
    device.run("count", (3, 256), parameters);
    let mut expected = [0; 16];
    x.iter().for_each(|value| expected[*value as usize % 16] += 1);
    assert_eq!(device.download::<u32>(bins, 16), expected);
    assert_eq!(device.download::<f32>(total, 1), [x.iter().sum::<u32>() as f32]);
    assert_eq!(device.download::<u32>(greatest, 1), [*x.iter().max().unwrap()]);
}

#[test]
fn blocks_run_in_the_order_asked_for() {
    let mut device = Device::new(BASICS);
    let mut last = |order| {
        let (counter, last) = (device.upload(&[0u32]), device.upload(&[0u32]));
        let launch = Launch { order, ..Launch::new([9, 1, 1], [32, 1, 1]) };
        let parameters = Parameters::default().with(counter).with(last);
        device.try_run("last_block", &launch, parameters).unwrap();
        assert_eq!(device.download::<u32>(counter, 1), [0]);
        device.download::<u32>(last, 1)[0]
    };
    assert_eq!(last(Order::Forward), 8);
    assert_eq!(last(Order::Reverse), 0);
    let mixed: Vec<u32> = (0..8).map(|seed| last(Order::Shuffled(seed))).collect();
    assert!(mixed.iter().any(|block| *block != mixed[0]));
}

#[test]
fn math() {
    let mut device = Device::new(BASICS);
    let x: Vec<f32> = (0..32).map(|i| 0.07 + i as f32 * 0.31).collect();
    let (px, out) = (device.upload(&x), device.empty::<f32>(12 * 32));
    device.run("math", (1, 32), Parameters::default().with(px).with(out));
    for (v, o) in x.iter().zip(device.download::<f32>(out, 12 * 32).chunks(12)) {
        let expected = [
            v.sqrt(),
            1.0 / v.sqrt(),
            v.exp(),
            v.ln(),
            v.exp(),
            1.0 / v,
            2.0 / v,
            v.sin(),
            v.tanh(),
            v.floor() + v.round_ties_even() + v.trunc() + v.ceil(),
            v.min(1.5) + v.max(0.25),
            v.powf(1.25),
        ];
        for (i, (got, expected)) in o.iter().zip(expected).enumerate() {
            let error = (got - expected).abs() / expected.abs().max(0.1);
            assert!(error < 2e-6, "function {i} of {v}: {got} for {expected}");
        }
    }
}

#[test]
fn integers() {
    let mut device = Device::new(BASICS);
    let (x, y): (Vec<i32>, Vec<i32>) =
        noise(5, 64).chunks(2).map(|pair| (pair[0] as i32, pair[1] as i32 >> 9 | 1)).unzip();
    let (px, py, out) = (device.upload(&x), device.upload(&y), device.empty::<i64>(16 * 32));
    device.run("integers", (1, 32), Parameters::default().with(px).with(py).with(out));
    let got = device.download::<i64>(out, 16 * 32);
    for ((&a, &b), got) in x.iter().zip(&y).zip(got.chunks(16)) {
        let (ua, ub) = (a as u32, b as u32);
        let bytes = (u64::from(ub) << 32 | u64::from(ua)).to_le_bytes();
        let expected = [
            i64::from(a / b),
            i64::from(a % b),
            i64::from(ua / ub),
            i64::from(ua % 7),
            (i64::from(a) * i64::from(b)) >> 32,
            i64::from(a) * i64::from(b),
            i64::from(a.count_ones() + b.leading_zeros()),
            i64::from(ua.reverse_bits()),
            i64::from(ub << 5 | ua >> 27),
            i64::from(u32::from_le_bytes([bytes[2], bytes[7], bytes[1], bytes[5]])),
            i64::from(a >> 3),
            i64::from(ua >> 3),
            (i64::from(a) << 20) / i64::from(b | 1),
            i64::from(i32::from(a as i8) + i32::from(b as u16)),
            i64::from(a.min(b).wrapping_sub(a.max(b))),
            ((a as i64 as u64).wrapping_mul(0x0123_4567_89ab_cdef) >> 7) as i64,
        ];
        assert_eq!(got, expected, "{a} and {b}");
    }
}

#[test]
fn branches_and_local_memory() {
    let mut device = Device::new(BASICS);
    let x: Vec<i32> = (0..32).map(|i| i * 5 % 9).collect();
    let (px, out) = (device.upload(&x), device.empty::<i32>(32));
    device.run("branches", (1, 32), Parameters::default().with(px).with(out));
    let stack: Vec<i32> = (0..8).map(|i| i * i + x[0]).collect();
    let odd = x.iter().filter(|v| **v % 2 == 1).count() as i32;
    let expected = x.iter().map(|&v| {
        let r = match v {
            0 => 7,
            1 => stack[(v + x[1]) as usize & 7],
            2 => x[2] * 3,
            3 => -x[3],
            4 => x[4] ^ 0x55,
            5 => x[5] << 4,
            _ => 1000 + stack[v as usize & 7],
        };
        r + odd * 100_000
    });
    assert_eq!(device.download::<i32>(out, 32), expected.collect::<Vec<_>>());
}

#[test]
fn variables_of_the_module() {
    let mut device = Device::new(BASICS);
    let out = device.empty::<f32>(4);
    device.run("variables", (1, 4), Parameters::default().with(out));
    assert_eq!(device.download::<f32>(out, 4), [1.0, 42.0, -3.0, 4.0]);
}

#[test]
fn votes() {
    let mut device = Device::new(BASICS);
    let x: Vec<i32> = (0..64).map(|i| i % 8).collect();
    let (px, out) = (device.upload(&x), device.empty::<i32>(192));
    device.run("votes", (1, 64), Parameters::default().with(px).with(out));
    assert_eq!(device.download::<i32>(out, 192), [32, 1, 3].repeat(64));
}
