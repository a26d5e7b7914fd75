//! The solver against the results of the public reference implementations, case by case.
//!
//! `tests/fixtures/README.md` says how the cases were made. The reference sums in another order,
//! so a few codes on a tie may differ: at least 99.8 % must agree, and the loss within 0.1 %.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::{num::NonZeroUsize, path::PathBuf};

use gptq_core::{
    ActOrder, Bits, Damping, GridSearch, GroupSize, Hessian, Portable, QuantConfig, solve,
};
use ndarray::{Array1, Array2, Axis};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

fn fixtures(folder: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(folder)
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Array2<f32> {
    let tensor = file.tensor(name).unwrap();
    let values: Vec<f32> = match tensor.dtype() {
        Dtype::F32 => bytemuck::pod_collect_to_vec(tensor.data()),
        Dtype::F16 => bytemuck::pod_collect_to_vec::<u8, u16>(tensor.data())
            .into_iter()
            .map(|bits| half::f16::from_bits(bits).to_f32())
            .collect(),
        other => panic!("{name} is {other:?}"),
    };
    // Sequences of tokens are just tokens.
    let columns = *tensor.shape().last().unwrap();
    Array2::from_shape_vec((values.len() / columns, columns), values).unwrap()
}

fn integers(file: &SafeTensors<'_>, name: &str) -> Array1<i32> {
    bytemuck::pod_collect_to_vec::<u8, i32>(file.tensor(name).unwrap().data()).into()
}

fn config(case: &Value) -> QuantConfig {
    let flag = |key: &str| case[key].as_bool().unwrap_or(false);
    QuantConfig {
        bits: Bits::try_from(case["bits"].as_u64().unwrap() as u32).unwrap(),
        group_size: GroupSize::from_file(case["group"].as_i64().unwrap()).unwrap(),
        sym: flag("sym"),
        act_order: match (flag("act"), flag("gar")) {
            (true, _) => ActOrder::DescAct,
            (_, true) => ActOrder::GroupAware,
            _ => ActOrder::Natural,
        },
        static_groups: flag("static"),
        damping: Damping { percent: case["percdamp"].as_f64().unwrap(), ..Default::default() },
        mse: flag("mse").then(GridSearch::default),
        gptaq_alpha: case["alpha"].as_f64().unwrap_or(0.0) as f32,
        ..Default::default()
    }
}

/// The cases of a folder with their files.
fn cases(folder: &str) -> Vec<(Value, Vec<u8>)> {
    let index = std::fs::read(fixtures(folder).join("index.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&index).unwrap();
    assert!(!cases.is_empty());
    let read = |case: &Value| fixtures(folder).join(case["file"].as_str().unwrap());
    cases.into_iter().map(|case| (case.clone(), std::fs::read(read(&case)).unwrap())).collect()
}

/// The group of each column, in the order in which the file lists scales.
fn groups(file: &SafeTensors<'_>, config: &QuantConfig) -> Vec<u32> {
    if file.tensor("g_idx").is_ok() {
        return integers(file, "g_idx").iter().map(|&g| g as u32).collect();
    }
    let perm = integers(file, "perm");
    let size = config.group_size.columns(perm.len());
    let mut groups = vec![0; perm.len()];
    for (position, &column) in perm.iter().enumerate() {
        let position = if config.static_groups { column as usize } else { position };
        groups[column as usize] = (position / size) as u32;
    }
    groups
}

fn check(folder: &str) {
    for (case, bytes) in cases(folder) {
        let name = case["file"].as_str().unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let config = config(&case);
        let mut hessian = Hessian::from_matrix(floats(&file, "H")).unwrap();
        if file.tensor("D").is_ok() {
            hessian = hessian.with_cross(floats(&file, "D")).unwrap();
        }
        let solved = solve(floats(&file, "W").view(), hessian, &config, &Portable).unwrap();

        let q = &solved.quantized;
        assert_eq!(q.g_idx, groups(&file, &config), "{name}");
        // The reference's dequantized weights, in steps of its own scale, give its codes.
        let want = floats(&file, "Wq");
        let (scales, zeros) = (floats(&file, "scales"), floats(&file, "zeros"));
        let mut different = 0;
        for ((r, c), &code) in q.codes.indexed_iter() {
            let g = q.g_idx[c] as usize;
            let expected = (want[(r, c)] / scales[(r, g)]).round() + zeros[(r, g)];
            different += usize::from(f32::from(code) != expected);
        }
        let share = different as f64 / q.codes.len() as f64;
        assert!(share <= 0.002, "{name}: {different} codes differ ({share:.4})");
        // GPTAQ's implementation divides by the number of sequences.
        let loss = case["loss"].as_f64().unwrap() * case["sequences"].as_f64().unwrap_or(1.0);
        assert!((solved.loss - loss).abs() <= 1e-3 * loss, "{name}: {} != {loss}", solved.loss);
        if let Some(damp) = case["damp_used"].as_f64() {
            assert!((solved.damp.percent - damp).abs() < 1e-9, "{name}: {:?}", solved.damp);
        }
    }
}

#[test]
fn authors_solver() {
    check("solver");
}

#[test]
fn gptqmodel_group_aware_order() {
    check("solver-gar");
}

#[test]
fn gptqmodel_gptaq() {
    check("solver-gptaq");
}

fn assert_close(name: &str, got: &Array2<f32>, want: &Array2<f32>) {
    let largest = want.fold(0f32, |m, v| m.max(v.abs()));
    let worst = (got - want).fold(0f32, |m, v| m.max(v.abs()));
    assert!(worst <= 1e-5 * largest, "{name}: {worst} of {largest}");
}

#[test]
fn hessian_from_inputs() {
    // Every sixth case carries the inputs its Hessian was made from.
    let mut seen = 0;
    for (case, bytes) in cases("solver") {
        let file = SafeTensors::deserialize(&bytes).unwrap();
        if file.tensor("X").is_err() {
            continue;
        }
        let x = floats(&file, "X");
        let batches = case["batches"].as_u64().unwrap();
        let mut hessian = Hessian::new(x.ncols());
        for batch in x.axis_chunks_iter(Axis(0), x.nrows().div_ceil(batches as usize)) {
            hessian.add_batch(batch, 1).unwrap();
        }
        assert_close(&case["file"].to_string(), &hessian.matrix(), &floats(&file, "H"));
        seen += 1;
    }
    assert!(seen >= 6);
}

#[test]
fn hessian_and_cross_moment_from_inputs_with_and_without_error() {
    for (case, bytes) in cases("solver-gptaq") {
        let name = case["file"].to_string();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (x, native) = (floats(&file, "X"), floats(&file, "X_native"));
        // The sequences in two sums, to be merged.
        let mut halves = [Hessian::new(x.ncols()), Hessian::new(x.ncols())];
        let batches = x.axis_chunks_iter(Axis(0), 100).zip(native.axis_chunks_iter(Axis(0), 100));
        for (i, (x, native)) in batches.enumerate() {
            halves[i % 2].add_batch_with_native(x, native, 1).unwrap();
        }
        let [mut hessian, other] = halves;
        hessian.merge(&other).unwrap();
        assert_close(&name, &hessian.matrix(), &floats(&file, "H"));
        assert_close(&name, &hessian.cross().unwrap(), &floats(&file, "D"));
    }
}

#[test]
fn block_size_is_free_when_groups_are_whole_blocks() {
    // With groups of 128 the working copy and the stored weights agree at every group start.
    let bytes = std::fs::read(fixtures("solver/case16_b4_g128_sym.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (w, h) = (floats(&file, "W"), floats(&file, "H"));
    let run = |block: usize| {
        let config = QuantConfig {
            act_order: ActOrder::Natural,
            block_size: NonZeroUsize::new(block).unwrap(),
            ..Default::default()
        };
        let hessian = Hessian::from_matrix(h.clone()).unwrap();
        solve(w.view(), hessian, &config, &Portable).unwrap()
    };
    let (a, b) = (run(128), run(32));
    assert!((a.loss - b.loss).abs() < 1e-3 * a.loss);
}
