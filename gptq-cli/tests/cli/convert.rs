//! `convert`, and `--zero-points` wherever packed models are read.

use std::{fs, path::Path};

use safetensors::Dtype;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Stored, args, fixture, gptq, mini, read_tensors, write_tensors};

const MODEL: &str = "checkpoints/b4_g32_sym";

/// The fixture under a false name.
fn mislabeled() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let model = fixture(MODEL);
    fs::copy(model.join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    let config = fs::read_to_string(model.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    for key in ["format", "checkpoint_format"] {
        config["quantization_config"][key] = "gptq_v2".into();
    }
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn converting_says_what_was_proven() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("awq");
    let said = gptq(args!["convert", fixture(MODEL), "--to", "awq", "--out", out, "--json"]).json();
    for (key, value) in [("from", Value::from("gptq")), ("to", "awq".into()), ("layers", 14.into())]
    {
        assert_eq!(said[key], value);
    }
    assert_eq!(
        (&said["lossless"], &said["lossy"], &said["proven"]),
        (&14.into(), &0.into(), &14.into())
    );
    assert!(said["worst"].is_null());
    assert!(Path::new(said["report"].as_str().unwrap()).is_file());
    let inspected = gptq(args!["inspect", out]);
    assert_eq!(inspected.code, 0, "{}", inspected.stderr);
    for word in ["awq", "4", "F16", "where the bytes are", "embeddings"] {
        assert!(inspected.stdout.contains(word), "{word}: {}", inspected.stdout);
    }
    let back = parent.path().join("back");
    let ran = gptq(args!["convert", out, "--to", "gptq", "--out", back]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for word in ["lossless", "proven", "14"] {
        assert!(ran.stdout.contains(word), "{word}: {}", ran.stdout);
    }
}

#[test]
fn refusals_leave_nothing_behind() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("out");
    let model = fixture("checkpoints/b3_g32_sym");
    let ran = gptq(args!["convert", model, "--to", "awq", "--out", out]);
    ran.fails(1, &["14 of 14 layers", "Nothing was written"]);
    let ran = gptq(args!["convert", fixture(MODEL), "--to", "dense", "--out", out]);
    ran.fails(1, &["weights change", "--dtype f32", "--lossy"]);
    let ran = gptq(args!["convert", fixture(MODEL), "--to", "awq", "--out", out, "--dtype", "f16"]);
    ran.fails(2, &["--dtype is for --to dense"]);
    let ran = gptq(args!["convert", fixture(MODEL), "--to", "nf4", "--out", out]);
    ran.fails(2, &["compressed-tensors", "gptq_v2"]);
    let ran = gptq(args!["convert", fixture("arch/llama"), "--to", "awq", "--out", out]);
    ran.fails(1, &["gptq quantize"]);
    assert!(names(parent.path()).is_empty());
}

#[test]
fn an_accepted_loss_is_measured() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("out");
    let run = args!["convert", fixture(MODEL), "--to", "dense", "--out", out, "--lossy", "--json"];
    let said = gptq(run).json();
    assert_eq!((&said["lossy"], &said["to"]), (&14.into(), &"dense BF16".into()));
    let rms = said["worst"]["rms_error"].as_f64().unwrap();
    assert!(rms > 0.0 && rms < 4e-3, "{rms}");
}

#[test]
fn inspect_warns_of_a_checkpoint_that_says_the_wrong_format() {
    let dir = mislabeled();
    let said = gptq(args!["inspect", dir.path(), "--json"]).json();
    let finding = said["findings"][0].as_str().unwrap();
    assert!(finding.contains("gptq_v2") && finding.contains("14 of 14"), "{finding}");
    let plain = gptq(args!["inspect", dir.path()]);
    assert!(plain.stdout.contains("warning: "), "{}", plain.stdout);
    assert!(plain.stdout.contains("declared gptq_v2, found gptq"), "{}", plain.stdout);
    let said = gptq(args!["inspect", dir.path(), "--zero-points", "gptq", "--json"]).json();
    assert_eq!(said["findings"], serde_json::json!([]));
}

#[test]
fn a_false_name_stops_commands_until_they_are_told_better() {
    let (dir, parent) = (mislabeled(), tempfile::tempdir().unwrap());
    let ids = parent.path().join("ids.safetensors");
    write_tensors(&ids, &[("input_ids", &Stored::new(Dtype::I32, &[1, 4], &[1, 2, 3, 4]))]);
    let out = |name: &str| parent.path().join(name);
    let logits = |model: &Path, name: &str, more: &[&str]| {
        let fixed = args!["logits", model, "--ids", ids.as_path(), "--out", out(name)];
        gptq(fixed.into_iter().chain(more.iter().map(Into::into)))
    };
    logits(dir.path(), "a", &[]).fails(1, &["gptq_v2", "--zero-points gptq"]);
    assert_eq!(logits(dir.path(), "a", &["--zero-points", "gptq"]).code, 0);
    assert_eq!(logits(&fixture(MODEL), "b", &[]).code, 0);
    let bytes = |name: &str| read_tensors(&out(name)).remove("logits").unwrap().bytes;
    assert!(bytes("a") == bytes("b"));
    let convert = args!["convert", dir.path(), "--to", "awq", "--out", out("awq")];
    gptq(convert.clone()).fails(1, &["--zero-points gptq"]);
    let told = gptq(convert.into_iter().chain(args!["--zero-points", "gptq"]));
    assert_eq!(told.code, 0, "{}", told.stderr);
}

#[test]
fn gguf_is_a_file_and_exact_unless_told_otherwise() {
    let parent = tempfile::tempdir().unwrap();
    let (model, out) = (parent.path().join("model"), parent.path().join("model.gguf"));
    let ran = gptq(args![
        "quantize",
        mini(),
        "--out",
        model.as_path(),
        "--method",
        "rtn",
        "--group-size",
        "32",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let to_gguf = args!["convert", model.as_path(), "--to", "gguf", "--out", out.as_path()];
    let said = gptq(to_gguf.clone().into_iter().chain(args!["--json"])).json();
    assert_eq!(said["exact"], true);
    assert_eq!(said["bytes"].as_u64(), Some(fs::metadata(&out).unwrap().len()));
    assert_eq!(fs::read(&out).unwrap()[..4], *b"GGUF");
    gptq(to_gguf).fails(1, &["model.gguf"]);
    // Through another format it is the same file.
    let (awq, second) = (parent.path().join("awq"), parent.path().join("second.gguf"));
    assert_eq!(gptq(args!["convert", model, "--to", "awq", "--out", awq.as_path()]).code, 0);
    let again = args!["convert", awq.as_path(), "--to", "gguf", "--out", second.as_path()];
    assert_eq!(gptq(again).code, 0);
    assert_eq!(fs::metadata(&out).unwrap().len(), fs::metadata(&second).unwrap().len());
    let third = parent.path().join("third.gguf");
    let coarse = args!["convert", awq, "--to", "gguf", "--out", third, "--gguf-type", "q4_0"];
    gptq(coarse.clone()).fails(2, &["--lossy"]);
    let coarse = gptq(coarse.into_iter().chain(args!["--lossy"]));
    assert_eq!(coarse.code, 0, "{}", coarse.stderr);
    assert!(coarse.stdout.contains("Q4_0"), "{}", coarse.stdout);
}

#[cfg(unix)]
#[test]
fn a_killed_conversion_leaves_no_final_name() {
    use std::process::{Command, Stdio};

    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("out");
    // Whenever it dies, the name is either absent or that of a whole folder.
    for wait in [0u64, 5, 10, 20, 40, 80] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_gptq"))
            .args(args![
                "convert",
                fixture(MODEL),
                "--to",
                "compressed-tensors",
                "--out",
                out.as_path()
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
        if out.exists() {
            let files = names(&out);
            for name in ["config.json", "model.safetensors", "gptq_report.json"] {
                assert!(files.iter().any(|file| file == name), "{wait} ms: {files:?}");
            }
            assert_eq!(gptq(args!["inspect", out.as_path()]).code, 0);
            fs::remove_dir_all(&out).unwrap();
        }
    }
    // The next run clears the remains.
    let run =
        args!["convert", fixture(MODEL), "--to", "compressed-tensors", "--out", out.as_path()];
    assert_eq!(gptq(run).code, 0);
    assert_eq!(names(parent.path()), ["out"]);
}
