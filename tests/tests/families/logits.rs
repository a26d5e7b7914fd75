//! The logits of the reference.

use gptq_core::Reference;
use gptq_kernels::CpuBackend;
use gptq_pack::PackedBackend;

use crate::{
    golden::{Golden, argmax},
    gpu::gpu,
};

/// On all backends; where there is no GPU, its kernels run on an emulator.
pub(crate) fn agree(golden: &Golden) {
    agree_on(golden, CpuBackend::new());
    agree_on(golden, Reference);
    agree_on(golden, gpu().exact());
}

fn agree_on(golden: &Golden, backend: impl PackedBackend) {
    let logits = golden.load(backend).logits(&golden.ids).unwrap();
    assert_eq!(logits.dim(), (golden.ids.len(), golden.last.len()));

    let last = logits.slice(ndarray::s![-1.., ..]).to_owned();
    let expected = ndarray::aview1(&golden.last).insert_axis(ndarray::Axis(0)).to_owned();
    let gap = golden.gap(&last, &expected);
    assert!(gap < 2e-4, "the last logits are off by {gap} of the largest");

    let leaders: Vec<usize> = logits.outer_iter().map(|row| argmax(row.iter().copied())).collect();
    assert_eq!(leaders, golden.argmax);

    let sum: f64 = logits.iter().map(|&logit| f64::from(logit.abs())).sum();
    let off = (sum / golden.sum_abs - 1.0).abs();
    assert!(off < 1e-4, "the sum of magnitudes is {sum}, not {}", golden.sum_abs);
}
