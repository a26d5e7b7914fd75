//! `gptq solve-layer`: the codes and losses of the reference solvers, through the command line.

use std::{fs, path::Path};

use half::f16;
use safetensors::Dtype;
use serde_json::Value;

use crate::{Ran, Stored, args, fixture, gptq, read_tensors, write_tensors};

fn solve(input: &Path, out: &Path, options: &[String]) -> Ran {
    let fixed = args!["solve-layer", "--input", input, "--out", out, "--json"];
    gptq(fixed.into_iter().chain(options.iter().map(Into::into)))
}

/// The options that ask for a case's settings.
fn options(case: &Value) -> Vec<String> {
    let flag = |key: &str| case[key].as_bool().unwrap_or(false);
    let mut out = vec![
        format!("--bits={}", case["bits"]),
        format!("--group-size={}", case["group"]),
        format!("--damp-percent={}", case["percdamp"]),
    ];
    let mut ask = |when: bool, option: &str| {
        if when {
            out.push(option.to_owned());
        }
    };
    ask(!flag("sym"), "--asym");
    ask(flag("act"), "--desc-act");
    ask(flag("gar"), "--act-group-aware");
    ask(!flag("act") && !flag("gar"), "--no-act-group-aware");
    ask(flag("static"), "--static-groups");
    ask(flag("mse"), "--mse=2.4");
    if let Some(alpha) = case["alpha"].as_f64() {
        out.extend(["--gptaq".to_owned(), alpha.to_string()]);
    }
    out
}

fn floats(tensor: &Stored) -> Vec<f32> {
    match tensor.dtype {
        Dtype::F16 => {
            tensor.values::<u16>().into_iter().map(|h| f16::from_bits(h).to_f32()).collect()
        }
        _ => tensor.values(),
    }
}

/// Solves one case and compares codes and loss.
fn check(folder: &str, case: &Value) {
    let name = case["file"].as_str().unwrap();
    let golden = read_tensors(&fixture(folder).join(name));
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    let mut tensors = vec![("weight", &golden["W"]), ("hessian", &golden["H"])];
    tensors.extend(golden.get("D").map(|d| ("cross", d)));
    write_tensors(&input, &tensors);
    let said = solve(&input, &out, &options(case)).json();

    let (found, rows, columns) = (read_tensors(&out), golden["W"].shape[0], golden["W"].shape[1]);
    let codes: Vec<i32> = found["codes"].values();
    let g_idx: Vec<i32> = found["g_idx"].values();
    let groups = golden["scales"].shape[1];
    assert_eq!(found["codes"].shape, [rows, columns], "{name}");
    assert_eq!(found["scales"].shape, [rows, groups], "{name}");
    assert_eq!(found["zeros"].shape, [rows, groups], "{name}");

    // The golden dequantized weights, in steps of their own scale, give the golden codes.
    let (want, scales, zeros) =
        (floats(&golden["Wq"]), floats(&golden["scales"]), floats(&golden["zeros"]));
    let dequantized: Vec<f32> = found["dequantized"].values();
    let (our_scales, our_zeros) = (found["scales"].values::<f32>(), found["zeros"].values::<i32>());
    let mut different = 0;
    for r in 0..rows {
        for (c, &group) in g_idx.iter().enumerate() {
            let at = r * columns + c;
            let grid = r * groups + group as usize;
            let code = (want[at] / scales[grid]).round() + zeros[grid];
            different += usize::from(codes[at] as f32 != code);
            let ours = our_scales[grid] * (codes[at] - our_zeros[grid]) as f32;
            assert!((dequantized[at] - ours).abs() <= 1e-6 * ours.abs(), "{name} [{r}, {c}]");
        }
    }
    let share = different as f64 / codes.len() as f64;
    assert!(share <= 0.002, "{name}: {different} codes differ");
    // GPTAQ's implementation divides by the number of sequences.
    let golden_loss = case["loss"].as_f64().unwrap() * case["sequences"].as_f64().unwrap_or(1.0);
    let loss = said["loss"].as_f64().unwrap();
    assert!((loss - golden_loss).abs() <= 1e-3 * golden_loss, "{name}: {loss} != {golden_loss}");
    assert!(said["rtn_loss"].as_f64().unwrap() > loss, "{name}: {said}");
    assert!(said["damp_percent"].as_f64().unwrap() >= case["percdamp"].as_f64().unwrap());
    if let Some(dead) = case["dead"].as_u64() {
        assert_eq!(said["dead_columns"].as_u64(), Some(dead), "{name}");
    }
}

fn cases(folder: &str) -> Vec<Value> {
    serde_json::from_slice(&fs::read(fixture(folder).join("index.json")).unwrap()).unwrap()
}

#[test]
fn codes_and_losses_are_those_of_the_authors_solver() {
    let cases = cases("solver");
    assert_eq!(cases.len(), 40);
    cases.iter().for_each(|case| check("solver", case));
}

#[test]
fn codes_and_losses_are_those_of_gptqmodel_in_group_aware_order() {
    let cases = cases("solver-gar");
    assert_eq!(cases.len(), 10);
    cases.iter().for_each(|case| check("solver-gar", case));
}

#[test]
fn codes_and_losses_are_those_of_gptqmodel_with_gptaq() {
    let cases = cases("solver-gptaq");
    assert_eq!(cases.len(), 6);
    cases.iter().for_each(|case| check("solver-gptaq", case));
}

/// Solves a file of the given tensors in whole rows.
fn with(tensors: &[(&str, &Stored)]) -> Ran {
    asked(tensors, &["--group-size=-1"])
}

fn asked(tensors: &[(&str, &Stored)], options: &[&str]) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    write_tensors(&input, tensors);
    let options: Vec<String> = options.iter().map(|&o| o.to_owned()).collect();
    let ran = solve(&input, &out, &options);
    assert_eq!(out.exists(), ran.code == 0);
    ran
}

fn matrix(rows: usize, columns: usize) -> Stored {
    let value = |i: usize| ((i * 7 + i / columns * 3) % 11) as f32 - 5.0;
    let values: Vec<f32> = (0..rows * columns).map(value).collect();
    Stored::new(Dtype::F32, &[rows, columns], &values)
}

fn identity(n: usize) -> Stored {
    let values: Vec<f32> = (0..n * n).map(|i| f32::from(i % (n + 1) == 0)).collect();
    Stored::new(Dtype::F32, &[n, n], &values)
}

#[test]
fn inputs_do_instead_of_a_hessian() {
    let said = with(&[("weight", &matrix(4, 8)), ("inputs", &matrix(64, 8))]).json();
    let keys: Vec<&str> = said.as_object().unwrap().keys().map(String::as_str).collect();
    let damp = ["damp_percent", "damp_attempts", "damp_floor"];
    assert_eq!(keys, [&["loss", "rtn_loss"], &damp[..], &["dead_columns"]].concat());
}

#[test]
fn gptaq_needs_to_know_what_the_inputs_lack() {
    let (w, h, x) = (matrix(4, 8), identity(8), matrix(64, 8));
    let whole = "--group-size=-1";
    let ran = asked(&[("weight", &w), ("hessian", &h)], &[whole, "--gptaq"]);
    ran.fails(1, &["in.safetensors", "no cross [in, in]", "--gptaq"]);
    let ran =
        asked(&[("weight", &w), ("hessian", &h), ("cross", &matrix(7, 7))], &[whole, "--gptaq"]);
    ran.fails(1, &["in.safetensors", "cross", "[7, 7]", "[8, 8]"]);
    let nothing = asked(&[("weight", &w), ("inputs", &x)], &[whole]).json();
    let off = asked(&[("weight", &w), ("inputs", &x)], &[whole, "--gptaq", "0"]).json();
    let zero = Stored::new(Dtype::F32, &[8, 8], &[0f32; 64]);
    let none = asked(&[("weight", &w), ("inputs", &x), ("cross", &zero)], &[whole, "--gptaq"]);
    assert_eq!((&nothing, &nothing), (&off, &none.json()));
}

#[test]
fn a_cross_moment_is_a_mean_however_the_hessian_came() {
    // The same layer as inputs, and as the Hessian 2/tokens · XᵀX they make.
    let (w, x, cross) = (matrix(4, 8), matrix(64, 8), matrix(8, 8));
    let values: Vec<f32> = x.values();
    let mut h = vec![0f32; 64];
    for row in values.chunks(8) {
        for (i, h) in h.iter_mut().enumerate() {
            *h += row[i / 8] * row[i % 8] / 32.0;
        }
    }
    let h = Stored::new(Dtype::F32, &[8, 8], &h);
    let options = ["--group-size=4", "--gptaq=0.5", "--foem"];
    let a = asked(&[("weight", &w), ("inputs", &x), ("cross", &cross)], &options).json();
    let b = asked(&[("weight", &w), ("hessian", &h), ("cross", &cross)], &options).json();
    assert_eq!(a, b);
    let plain = asked(&[("weight", &w), ("inputs", &x)], &["--group-size=4"]).json();
    assert_ne!(a["loss"], plain["loss"]);
}

#[test]
fn options_that_contradict_each_other_are_wrong_usage() {
    let none = |options: &[&str]| asked(&[], options);
    let whole = "--group-size=-1";
    none(&["--fresh-scales", whole]).fails(2, &["--fresh-scales", "--group-size -1"]);
    none(&["--fresh-scales", "--static-groups"]).fails(2, &["--fresh-scales", "--static-groups"]);
    none(&["--gptaq=-1"]).fails(2, &["gptaq_alpha", "0.25"]);
    none(&["--foem=1"]).fails(2, &["foem_beta", "[0, 1)"]);
    none(&["--mse-grid=50"]).fails(2, &["--mse"]);
    none(&["--mse=2.4", "--mse-maxshrink=1"]).fails(2, &["maxshrink"]);
    none(&["--mse=2.4", "--mse-grid=0"]).fails(2, &["--mse-grid"]);
    none(&["--block-size=0"]).fails(2, &["--block-size"]);
}

#[test]
fn settings_of_the_search_and_of_blocks_reach_the_solver() {
    let golden = read_tensors(&fixture("solver").join("case15_b4_g32_asym.safetensors"));
    let tensors = [("weight", &golden["W"]), ("hessian", &golden["H"])];
    let loss = |more: &[&str]| {
        let fixed = ["--asym", "--group-size=32", "--no-act-group-aware"];
        asked(&tensors, &[&fixed, more].concat()).json()["loss"].as_f64().unwrap()
    };
    let plain = loss(&[]);
    assert_eq!(loss(&["--fresh-scales", "--no-fresh-scales"]), plain);
    assert_eq!(loss(&["--mse=2.4", "--mse-grid=10", "--mse-maxshrink=0.1"]), plain);
    let searched = loss(&["--mse=2.4"]);
    assert!(searched != plain && searched != loss(&["--mse=2.4", "--mse-grid=20"]));
    // Blocks of one group have nothing stale: the order of sums differs, and little else.
    let (fresh, blocks) = (loss(&["--fresh-scales"]), loss(&["--block-size=32"]));
    assert!(fresh != plain && (fresh / blocks - 1.0).abs() < 1e-3, "{fresh} and {blocks}");
}

#[test]
fn a_hessian_and_inputs_together_are_refused() {
    let (w, h, x) = (matrix(4, 8), identity(8), matrix(64, 8));
    let ran = with(&[("weight", &w), ("hessian", &h), ("inputs", &x)]);
    ran.fails(1, &["in.safetensors", "both hessian and inputs"]);
}

#[test]
fn neither_a_hessian_nor_inputs_is_refused() {
    with(&[("weight", &matrix(4, 8))]).fails(1, &["in.safetensors", "neither hessian"]);
}

#[test]
fn a_file_without_a_weight_is_refused() {
    with(&[("hessian", &identity(8))]).fails(1, &["in.safetensors", "no weight [out, in]"]);
}

#[test]
fn tensors_that_do_not_fit_are_refused_with_their_shapes() {
    let w = matrix(4, 8);
    with(&[("weight", &w), ("hessian", &identity(7))]).fails(1, &["in.safetensors", "7", "8"]);
    with(&[("weight", &w), ("inputs", &matrix(64, 7))]).fails(1, &["in.safetensors", "7", "8"]);
    with(&[("weight", &w), ("hessian", &matrix(8, 7))]).fails(1, &["[8, 7]"]);
    let flat = Stored::new(Dtype::F32, &[8], &[1f32; 8]);
    with(&[("weight", &flat), ("hessian", &identity(8))]).fails(1, &["weight", "[8]"]);
    let integers = Stored::new(Dtype::I32, &[1, 2], &[1, 2]);
    with(&[("weight", &integers), ("hessian", &identity(2))]).fails(1, &["weight", "I32"]);
    let none = Stored::new(Dtype::F32, &[0, 8], &[0f32; 0]);
    with(&[("weight", &matrix(4, 8)), ("inputs", &none)]).fails(1, &["in.safetensors"]);
}

#[test]
fn values_that_are_not_finite_are_refused_with_their_place() {
    let mut w = matrix(4, 8);
    w.bytes[4 * 10..4 * 11].copy_from_slice(&f32::NAN.to_le_bytes());
    with(&[("weight", &w), ("hessian", &identity(8))]).fails(1, &["NaN", "row 1, column 2"]);
    let mut h = identity(8);
    h.bytes[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    with(&[("weight", &matrix(4, 8)), ("hessian", &h)]).fails(1, &["inf", "row 0, column 0"]);
}

#[test]
fn a_hessian_that_no_damping_saves_is_refused_with_the_attempts() {
    let mut h = identity(8);
    // Two inputs that are more than alike: 2.5 beside ones, in both triangles.
    for at in [1, 8] {
        h.bytes[4 * at..4 * (at + 1)].copy_from_slice(&2.5f32.to_le_bytes());
    }
    let ran = with(&[("weight", &matrix(4, 8)), ("hessian", &h)]);
    ran.fails(1, &["not positive definite", "column", "693 attempts"]);
}

#[test]
fn a_negative_entry_is_lifted_and_reported() {
    let mut h = identity(8);
    h.bytes[4 * 9..4 * 10].copy_from_slice(&(-2f32).to_le_bytes());
    let said = with(&[("weight", &matrix(4, 8)), ("hessian", &h)]).json();
    assert_eq!((&said["damp_floor"], &said["damp_attempts"]), (&1.into(), &100.into()));
}
