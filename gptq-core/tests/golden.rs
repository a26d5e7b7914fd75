//! The solver against the results of the public reference implementations, case by case.
//!
//! `tests/fixtures/README.md` says how the cases were made. The reference sums in another order,
//! so a few codes on a tie may differ: at least 99.8 % must agree, and the loss within 0.1 %.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::{num::NonZeroUsize, path::PathBuf};

use gptq_core::{
    ActOrder, Bits, Damping, GridSearch, GroupSize, Hessian, Portable, QuantConfig, solve,
};
use ndarray::{Array1, Array2};
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
    Array2::from_shape_vec((tensor.shape()[0], tensor.shape()[1]), values).unwrap()
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
        ..Default::default()
    }
}

fn check(folder: &str) {
    let index = std::fs::read(fixtures(folder).join("index.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&index).unwrap();
    assert!(!cases.is_empty());
    for case in &cases {
        let name = case["file"].as_str().unwrap();
        let bytes = std::fs::read(fixtures(folder).join(name)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let config = config(case);
        let hessian = Hessian::from_matrix(floats(&file, "H")).unwrap();
        let solved = solve(floats(&file, "W").view(), hessian, &config, &Portable).unwrap();

        // The reference's dequantized weights, in steps of its own scale, give its codes.
        let want = floats(&file, "Wq");
        let (scales, zeros) = (floats(&file, "scales"), floats(&file, "zeros"));
        let columns = want.ncols();
        let size = config.group_size.columns(columns);
        let mut position = vec![0; columns];
        if folder == "solver" {
            // Scales are listed in processing order.
            for (p, &column) in integers(&file, "perm").iter().enumerate() {
                position[column as usize] = p;
            }
        } else {
            position = (0..columns).collect();
        }
        let q = &solved.quantized;
        let mut different = 0;
        for ((r, c), &code) in q.codes.indexed_iter() {
            let column = if config.static_groups { c } else { position[c] };
            let g = column / size;
            let expected = (want[(r, c)] / scales[(r, g)]).round() + zeros[(r, g)];
            different += usize::from(f32::from(code) != expected);
            assert_eq!(q.g_idx[c] as usize, g, "{name}: g_idx of column {c}");
        }
        let share = different as f64 / q.codes.len() as f64;
        assert!(share <= 0.002, "{name}: {different} codes differ ({share:.4})");
        let loss = case["loss"].as_f64().unwrap();
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
fn hessian_from_inputs() {
    // Every sixth case carries the inputs its Hessian was made from.
    let index = std::fs::read(fixtures("solver/index.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&index).unwrap();
    let mut seen = 0;
    for case in &cases {
        let bytes = std::fs::read(fixtures("solver").join(case["file"].as_str().unwrap())).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        if file.tensor("X").is_err() {
            continue;
        }
        let (x, want) = (floats(&file, "X"), floats(&file, "H"));
        let batches = case["batches"].as_u64().unwrap();
        let mut hessian = Hessian::new(x.ncols());
        let rows = x.nrows().div_ceil(batches as usize);
        for batch in x.axis_chunks_iter(ndarray::Axis(0), rows) {
            hessian.add_batch(batch, 1).unwrap();
        }
        let largest = want.fold(0f32, |m, v| m.max(v.abs()));
        let worst = (hessian.matrix() - &want).fold(0f32, |m, v| m.max(v.abs()));
        assert!(worst <= 1e-5 * largest, "{}: {worst} of {largest}", case["file"]);
        seen += 1;
    }
    assert!(seen >= 6);
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
