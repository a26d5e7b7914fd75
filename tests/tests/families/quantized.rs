//! From every family to a checkpoint that loads again.

use std::collections::{BTreeMap, BTreeSet};

use gptq_core::{ActOrder, Bits, GroupSize, QuantConfig, Reference};
use gptq_kernels::CpuBackend;
use gptq_models::{Fate, Model, QuantizeOptions, Report, quantize};
use gptq_tests::{Tensors, random_tokens, read_tensors};
use ndarray::{Array2, ArrayView1};

use crate::golden::{Golden, open};

/// Of random weights even 8 bits leave a visible error: each linear adds 0.4 % (a step of 1/255 of
/// the range of evenly spread weights), and attention, norms and gates enlarge what reaches them.
/// Rounding in the reference implementation leaves 0.7 % (GPT-J) to 3.1 % (DeepSeek-V3 with yarn).
/// One linear that is read wrongly leaves tens of percent.
pub(crate) fn eight_bits(golden: &Golden) {
    let off = reload(golden, Bits::B8);
    assert!(off < 0.04, "{off}");
}

/// Steps 17 times as wide, so 12 % to 52 % in the reference: random weights have no large and small
/// directions for GPTQ to choose between. Unrelated logits are 141 % apart.
pub(crate) fn four_bits(golden: &Golden) {
    let off = reload(golden, Bits::B4);
    assert!(off < 0.6, "{off}");
}

/// Quantizes a model and loads it again. How far the logits of the median token are from the dense
/// ones.
fn reload(golden: &Golden, bits: Bits) -> f32 {
    let (source, parent) = (golden.folder(), tempfile::tempdir().unwrap());
    let config = QuantConfig {
        bits,
        group_size: group_size(golden),
        act_order: ActOrder::Natural,
        ..QuantConfig::default()
    };
    let options = QuantizeOptions { config, ..QuantizeOptions::default() };
    let (samples, out) = (calibration(golden), parent.path().join("out"));
    let backend = CpuBackend::new();
    let report = quantize(&open(source.path()), &samples, &backend, &options, &out, &mut ())
        .unwrap_or_else(|error| panic!("{error}"));
    check_coverage(golden, &report);
    check_tensors(golden, &report, &read_tensors(&out.join("model.safetensors")));

    let checkpoint = open(&out);
    let logits = Model::load(&checkpoint, backend).unwrap().logits(&golden.ids).unwrap();
    let plain = Model::load(&checkpoint, Reference).unwrap().logits(&golden.ids).unwrap();
    let gap = golden.gap(&logits, &plain);
    assert!(gap < 1e-4, "the backends are {gap} of the largest logit apart");
    let dense = golden.load(backend).logits(&golden.ids).unwrap();
    median_error(&logits, &dense)
}

/// The error of each token's logits relative to their norm, and of all tokens the median: a router
/// that was nearly undecided may send a token or two to other experts, which changes all of their
/// logits.
pub(crate) fn median_error(logits: &Array2<f32>, dense: &Array2<f32>) -> f32 {
    let norm = |row: ArrayView1<'_, f32>| row.dot(&row).sqrt();
    let error = logits - dense;
    let rows = error.outer_iter().zip(dense.outer_iter());
    let mut errors: Vec<f32> = rows.map(|(error, row)| norm(error) / norm(row)).collect();
    errors.sort_by(f32::total_cmp);
    errors[errors.len() / 2]
}

/// Every linear of the blocks is quantized; they are counted from names and shapes alone.
fn check_coverage(golden: &Golden, report: &Report) {
    let linears = golden.files.tensors.iter().filter(|(name, t)| is_linear(name, &t.shape));
    let parameters: usize = linears.map(|(_, t)| t.shape.iter().product::<usize>()).sum();
    let coverage = report.coverage;
    assert_eq!(coverage.expected, parameters as u64);
    assert_eq!(coverage.quantized + coverage.skipped, coverage.expected);
    assert_eq!(coverage.skipped, 0, "no rule says so");
}

/// The ledger has every tensor of the source once and tells the truth about it; every tensor of the
/// result is one of the source or part of a quantized linear.
fn check_tensors(golden: &Golden, report: &Report, result: &Tensors) {
    let source = &golden.files.tensors;
    let ledger = &report.ledger.tensors;
    let names: BTreeSet<&String> = ledger.iter().map(|entry| &entry.name).collect();
    assert_eq!((ledger.len(), names), (source.len(), source.keys().collect()));
    for entry in ledger {
        let (before, after) = (&source[&entry.name], result.get(&entry.name));
        match entry.fate {
            Fate::Copied => assert!(after == Some(before), "{entry:?}"),
            Fate::Quantized => assert!(after.is_none(), "{entry:?}"),
            Fate::Rewritten | Fate::Dropped => assert!(entry.reason.is_some(), "{entry:?}"),
        }
    }
    let mut parts: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for name in result.keys().filter(|name| !source.contains_key(*name)) {
        let (layer, part) = name.rsplit_once('.').unwrap();
        parts.entry(layer).or_default().insert(part);
    }
    let packed = BTreeSet::from(["qweight", "qzeros", "scales", "g_idx"]);
    for layer in &report.layers {
        let mut found = parts.remove(layer.name.as_str()).unwrap_or_default();
        // Of linears that were stacked, biases are new tensors too.
        found.remove("bias");
        assert_eq!(found, packed, "{}", layer.name);
        assert!(layer.loss.is_some() || layer.fallback.is_some(), "{layer:?}");
    }
    assert!(parts.is_empty(), "unexplained: {parts:?}");
}

/// Whether a tensor is the weight of linears to quantize: the matrices of the blocks, stacked or
/// not, but for routers, norms with a row per head and the biases of stacked experts.
fn is_linear(name: &str, shape: &[usize]) -> bool {
    let left_alone = [
        "mlp.gate.weight",
        "block_sparse_moe.gate.weight",
        "router.weight",
        "router.layer.weight",
        "shared_expert_gate.weight",
        "norm.weight",
        "_bias",
    ];
    let in_a_block = name.split('.').any(|part| part.parse::<usize>().is_ok());
    in_a_block && shape.len() > 1 && !left_alone.iter().any(|end| name.ends_with(end))
}

/// Groups of 32 where they fit, whole rows elsewhere.
fn group_size(golden: &Golden) -> GroupSize {
    let mut linears = golden.files.tensors.iter().filter(|(name, t)| is_linear(name, &t.shape));
    let fits = linears.all(|(_, t)| t.shape[t.shape.len() - 1] % 32 == 0);
    GroupSize::from_file(if fits { 32 } else { -1 }).unwrap()
}

/// Random tokens of the model's vocabulary.
fn calibration(golden: &Golden) -> Vec<Vec<u32>> {
    let vocabulary = golden.files.config["vocab_size"].as_u64().unwrap() as u32;
    let mut samples = random_tokens(1, 8, 32);
    samples.iter_mut().flatten().for_each(|id| *id %= vocabulary);
    samples
}
