//! Runs within little memory.

use gptq_core::Bits;
use gptq_kernels::{CpuBackend, Precision};
use gptq_models::QuantizeOptions;
use gptq_tests::random_tokens;

use super::{Run, options, packed, refused, source};

/// The least limit that is not refused, to the MiB.
fn least(samples: &[Vec<u32>]) -> u64 {
    let refusal =
        refused(&source(), samples, &QuantizeOptions { max_ram: Some(1), ..options(Bits::B4) });
    let (_, rest) = refusal.split_once("together ").unwrap();
    let mib: u64 = rest.split_once(' ').unwrap().0.parse().unwrap();
    mib << 20
}

/// Samples in a scratch file, and stages that are computed twice, change no byte of the result.
#[test]
fn little_memory_changes_nothing() {
    let samples = random_tokens(1, 200, 48);
    let limit = Some(least(&samples));
    for precision in [Precision::F32, Precision::Bf16] {
        let backend = CpuBackend::new().with_precision(precision);
        let run = |options| Run::on(&backend, &source(), &samples, &options).unwrap();
        let plenty = run(options(Bits::B4));
        let little = run(QuantizeOptions { max_ram: limit, ..options(Bits::B4) });
        assert_eq!(plenty.report.memory.scratch_bytes, 0);
        assert!(little.report.memory.scratch_bytes > 0, "{:?}", little.report.memory);
        assert!(little.report.memory.waiting_bytes < plenty.report.memory.waiting_bytes);
        assert_eq!(packed(&plenty, |_| true), packed(&little, |_| true));
    }
}

/// The same where the original model runs beside, and where blocks are solved whole.
#[test]
fn little_memory_changes_nothing_for_other_passes() {
    let samples = random_tokens(1, 200, 48);
    let limit = Some(least(&samples) + (1 << 20));
    let mut native = options(Bits::B4);
    native.config.gptaq_alpha = 0.25;
    let whole = QuantizeOptions { true_sequential: false, ..options(Bits::B4) };
    for options in [native, whole] {
        let plenty = Run::of(&source(), &samples, &options);
        let little = Run::of(&source(), &samples, &QuantizeOptions { max_ram: limit, ..options });
        assert!(little.report.memory.scratch_bytes > 0, "{:?}", little.report.memory);
        assert_eq!(packed(&plenty, |_| true), packed(&little, |_| true));
    }
}

#[test]
fn too_little_memory_is_refused_with_the_sum() {
    let samples = random_tokens(1, 4, 48);
    let options = QuantizeOptions { max_ram: Some(10 << 20), ..options(Bits::B4) };
    let refusal = refused(&source(), &samples, &options);
    for part in ["does not fit 10 MiB", "for Hessians", "for one pass", "together"] {
        assert!(refusal.contains(part), "{refusal}");
    }
}
