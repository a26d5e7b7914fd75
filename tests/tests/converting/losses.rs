//! With a loss accepted: the nearest that the target holds, and a report that measures it.

use gptq_models::{ConvertReport, Target};
use gptq_pack::Format;
use gptq_tests::{ModelFiles, largest_difference};
use half::f16;
use safetensors::Dtype;

use crate::{Folder, logits, open, refusals::zeros_of_0, refused, try_convert};

fn lossy(source: &std::path::Path, target: Target) -> (Folder, ConvertReport) {
    let (out, report) = try_convert(&open(source), target, true).unwrap();
    assert!(report.lossy > 0);
    assert_eq!(report.lossy + report.lossless, report.layers.len());
    assert_eq!(report.proven, report.layers.len());
    for layer in &report.layers {
        assert_eq!(layer.lossless, layer.max_error == 0.0, "{layer:?}");
        assert!(layer.rms_error <= layer.max_error, "{layer:?}");
    }
    (out, report)
}

#[test]
fn raised_zero_points_lose_a_step_at_the_top_only() {
    let source = zeros_of_0();
    let (out, report) = lossy(&source.dir, Target::Packed(Format::Gptq));
    // A step of two bits is at most the whole range, which a few weights in a group of 8 reach.
    let worst = report.layers.iter().map(|l| l.rms_error).fold(0.0, f64::max);
    assert!(worst < 0.3, "{worst}");
    assert!(logits(&out.dir).iter().all(|v| v.is_finite()));
}

/// A model whose scales need more than half precision.
fn fine_scales() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut files = ModelFiles::of("checkpoints/b4_g32_asym");
    for (_, t) in files.tensors.iter_mut().filter(|(name, _)| name.ends_with(".scales")) {
        let halves = t.bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32());
        t.bytes = halves.flat_map(|v| (v * 1.0001).to_le_bytes()).collect();
        t.dtype = Dtype::F32;
    }
    files.write(dir.path());
    dir
}

#[test]
fn scales_are_rounded_only_where_the_format_is_coarser() {
    let source = fine_scales();
    for format in [Format::Awq, Format::GptqV2] {
        let error = refused(source.path(), Target::Packed(format));
        gptq_tests::assert_says(&error, &["scales change", "to compressed-tensors", "--lossy"]);
        let (out, report) = lossy(source.path(), Target::Packed(format));
        let worst = report.layers.iter().map(|l| l.max_error).fold(0.0, f64::max);
        // Half of the last of 11 bits, times the largest weight in units of the mean.
        assert!(worst > 1e-6 && worst < 5.0 * 2f64.powi(-11), "{worst}");
        assert!(largest_difference(&logits(&out.dir), &logits(source.path())) < 1e-3);
    }
    let target = Target::Packed(Format::CompressedTensors);
    assert_eq!(try_convert(&open(source.path()), target, false).unwrap().1.lossy, 0);
}
