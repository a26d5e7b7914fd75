//! `--device cuda`, on a stand-in for the driver that runs the kernels on the CPU.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use assert_cmd::Command;
use safetensors::Dtype;

use crate::{Ran, args, fixture, gptq, mini, read_tensors, short_run, write_tensors};

/// A folder in which the loader finds the stand-in for the driver, and for cuBLAS if asked.
fn libraries(blas: bool) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let emulator = std::env::current_exe().unwrap().with_file_name("libgptq_ptx_emulator.so");
    assert!(emulator.exists(), "{}", emulator.display());
    for name in ["libcuda.so", "libcublas.so"].into_iter().take(1 + usize::from(blas)) {
        std::os::unix::fs::symlink(&emulator, dir.path().join(name)).unwrap();
    }
    dir
}

/// Runs the program where the driver is the stand-in, with settings of it.
fn emulated<S: AsRef<std::ffi::OsStr>>(
    args: impl IntoIterator<Item = S>,
    blas: bool,
    settings: &[(&str, &str)],
) -> Ran {
    let libraries = libraries(blas);
    let mut command = Command::new(env!("CARGO_BIN_EXE_gptq"));
    command.env("LD_LIBRARY_PATH", libraries.path()).envs(settings.iter().copied());
    let output = command.args(args).timeout(Duration::from_secs(300)).output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn ids_of(model: &Path, dir: &Path) -> PathBuf {
    let expected = read_tensors(&model.join("expected.safetensors"));
    let ids = dir.join("ids.safetensors");
    write_tensors(&ids, &[("input_ids", &expected["input_ids"])]);
    ids
}

/// The largest difference from the logits of the reference implementation, as a share of the
/// largest of them.
fn distance(model: &Path, precision: &str, blas: bool, capability: &str) -> f32 {
    let dir = tempfile::tempdir().unwrap();
    let (ids, out) = (ids_of(model, dir.path()), dir.path().join("out.safetensors"));
    let asked = args!["logits", model, "--ids", ids, "--out", out, "--json", "--device", "cuda"];
    let precision = args!["--precision", precision];
    let settings = [("PTX_EMULATOR_CAPABILITY", capability)];
    let said = emulated(asked.into_iter().chain(precision.clone()), blas, &settings).json();
    assert_eq!(said["precision"], precision[1].to_str().unwrap());
    let (found, want) = (read_tensors(&out), read_tensors(&model.join("expected.safetensors")));
    assert_eq!(found["logits"].dtype, Dtype::F32);
    let (found, want): (Vec<f32>, Vec<f32>) = (found["logits"].values(), want["logits"].values());
    let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    found.iter().zip(&want).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

#[test]
fn families_give_the_logits_of_transformers() {
    for name in ["llama", "llama3-rope"] {
        let model = fixture(&format!("arch/{name}"));
        let far = distance(&model, "f32", false, "8.0");
        assert!(far <= 2e-4, "{name}: {far}");
    }
}

#[test]
fn checkpoints_of_gptqmodel_give_the_logits_of_an_independent_reader() {
    for name in ["b2_g32_sym", "b3_g32_sym", "b4_g32_sym_act", "b4_g32_asym_v2", "b8_gm1_sym"] {
        let model = fixture(&format!("checkpoints/{name}"));
        for (precision, blas, capability, allowed) in
            [("f16", false, "8.0", 3e-3), ("f16", false, "9.0", 3e-3), ("bf16", true, "9.0", 2e-2)]
        {
            let far = distance(&model, precision, blas, capability);
            assert!(far <= allowed, "{name}, {precision} on {capability}: {far}");
        }
    }
}

/// Blocks of a grid run in any order on a GPU: sums that they make together have one.
#[test]
fn results_do_not_depend_on_the_order_of_blocks() {
    let model = fixture("checkpoints/b4_g32_sym_act");
    let dir = tempfile::tempdir().unwrap();
    let ids = ids_of(&model, dir.path());
    let logits = |order: &str| {
        let out = dir.path().join(order);
        let asked = args!["logits", model, "--ids", ids, "--out", out, "--device", "cuda"];
        assert_eq!(emulated(asked, false, &[("PTX_EMULATOR_ORDER", order)]).code, 0);
        fs::read(out).unwrap()
    };
    let forward = logits("forward");
    assert!(logits("reverse") == forward && logits("12") == forward);
}

#[test]
fn text_is_that_of_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("q");
    assert_eq!(short_run(&mini(), &out, &[]).code, 0);
    let asked = || {
        args!["generate", out, "--prompt", "The", "--max-new-tokens", "10", "--json"].into_iter()
    };
    let cpu = gptq(asked().chain(args!["--precision", "f32"])).json();
    let hopper = [("PTX_EMULATOR_CAPABILITY", "9.0")];
    let gpu = emulated(asked().chain(args!["--device", "cuda"]), false, &hopper).json();
    assert_eq!(gpu["text"], cpu["text"]);
    assert_eq!(gpu["precision"], "f16");
    let evaluated = |device: &str| {
        args!["eval", out, "--text", crate::text("evaluation.txt"), "--seqlen", "32"]
            .into_iter()
            .chain(args!["--max-windows", "1", "--json", "--device", device])
    };
    let (cpu, gpu) = (gptq(evaluated("cpu")).json(), emulated(evaluated("cuda"), true, &[]).json());
    let (cpu, gpu) = (cpu["ppl"].as_f64().unwrap(), gpu["ppl"].as_f64().unwrap());
    assert!((gpu / cpu - 1.0).abs() < 3e-3, "{gpu}, not {cpu}");
}

#[test]
fn what_is_wrong_with_a_gpu_is_said() {
    let generate = || {
        args!["generate", mini(), "--prompt", "The", "--max-new-tokens", "4", "--device", "cuda"]
    };
    let fails = |settings: &[(&str, &str)], words: &[&str]| {
        emulated(generate(), false, settings).fails(1, words);
    };
    fails(&[("PTX_EMULATOR_NO_DEVICE", "1")], &["CUDA_ERROR_NO_DEVICE", "no GPU"]);
    fails(&[("PTX_EMULATOR_CAPABILITY", "7.5")], &["7.5", "8.0", "--device cpu"]);
    fails(&[("PTX_EMULATOR_MEMORY", "1000000")], &["OUT_OF_MEMORY", "MiB are free"]);
    fails(&[("PTX_EMULATOR_LOSE", "20")], &["nothing on disk is affected"]);
    let second = args!["generate", mini(), "--prompt", "The", "--device", "cuda:1"];
    emulated(second, false, &[]).fails(1, &["CUDA_ERROR_INVALID_DEVICE"]);
    let bytes = generate().into_iter().chain(args!["--precision", "int8"]);
    emulated(bytes, false, &[]).fails(2, &["int8", "f16"]);
    gptq(args!["generate", mini(), "--prompt", "The", "--precision", "f16"]).fails(2, &["cuda"]);
    // Where there is a driver, the first of these would run.
    if fs::exists("/dev/nvidia0").is_ok_and(|there| !there) {
        gptq(generate()).fails(1, &["no CUDA driver", "--device cpu"]);
    }
}

#[test]
fn decoding_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("q");
    assert_eq!(short_run(&mini(), &out, &[]).code, 0);
    let asked = args!["bench", "decode", out, "--device", "cuda", "--json"].into_iter();
    let few = args!["--prompt-tokens", "8", "--tokens", "4"];
    let small = [("PTX_EMULATOR_MEMORY", "67108864")];
    let said = emulated(asked.chain(few), false, &small).json();
    assert_eq!(said["precision"], "f16");
    assert!(said["read_bandwidth"].as_f64().unwrap() > 0.0);
}

#[test]
fn products_are_measured_and_right() {
    let asked = args!["bench", "machine", "--device", "cuda"];
    let sizes = args!["--shape", "100x256", "--tokens", "1,12,70", "--json"];
    let settings = [("PTX_EMULATOR_MEMORY", "67108864"), ("PTX_EMULATOR_CAPABILITY", "9.0")];
    let said = emulated(asked.into_iter().chain(sizes), false, &settings).json();
    assert_eq!(said["shape"], serde_json::json!([100, 256]));
    for (figures, tokens) in said["products"].as_array().unwrap().iter().zip([1, 12, 70]) {
        assert_eq!(figures["tokens"], tokens);
        assert!(figures["packed_seconds"].as_f64().unwrap() > 0.0);
        assert!((1e-6..3e-3).contains(&figures["error"].as_f64().unwrap()), "{figures}");
    }
    for wrong in ["100", "0x4", "4x", "4x9999999"] {
        gptq(args!["bench", "machine", "--device", "cuda", "--shape", wrong])
            .fails(2, &["14336x4096"]);
    }
    gptq(args!["bench", "machine", "--shape", "8x8"]).fails(2, &["--device cuda"]);
}
