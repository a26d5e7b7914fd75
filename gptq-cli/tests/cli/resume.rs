//! A run that is killed, or that the disk fails, goes on where it stopped.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{Ran, args, gptq, mini, short_run, text};

/// Arguments of a run of a second or so.
fn quantize(out: &Path, options: &[&str]) -> Vec<OsString> {
    let fixed = args![
        "quantize",
        mini(),
        "--out",
        out,
        "--calib",
        text("calibration.txt"),
        "--nsamples",
        "24",
        "--seqlen",
        "128",
    ];
    fixed.into_iter().chain(options.iter().map(Into::into)).collect()
}

/// Everything below a folder but the report, which tells the time, and the adapter's config, which
/// names the folder of its model.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let name = path.strip_prefix(dir).unwrap().to_owned();
                    found.insert(name, fs::read(&path).unwrap());
                }
            }
        }
    }
    found.remove(Path::new("gptq_report.json")).expect("a report");
    found.remove(Path::new("eora/adapter_config.json"));
    found
}

fn report(dir: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(dir.join("gptq_report.json")).unwrap()).unwrap()
}

/// Losses and all else that does not tell the time.
fn figures(dir: &Path) -> Vec<serde_json::Value> {
    let report = report(dir);
    let mut layers = report["layers"].as_array().unwrap().clone();
    layers.iter_mut().for_each(|layer| drop(layer.as_object_mut().unwrap().remove("seconds")));
    layers
}

/// Begins a run of about this length anew, and kills it and what goes on from it, until one comes
/// to its end. Returns how often.
fn killed_until_done(out: &Path, options: &[&str], takes: Duration) -> usize {
    if out.exists() {
        fs::remove_dir_all(out).unwrap();
    }
    let mut killed = 0;
    // Spread over the run, and over what is left of it when it goes on.
    for percent in [5u32, 31, 53, 71, 17, 83, 61, 97, 43] {
        let mut run = Command::new(env!("CARGO_BIN_EXE_gptq"));
        let run = run.args(quantize(out, options)).stdout(Stdio::null()).stderr(Stdio::null());
        let mut run = run.spawn().unwrap();
        sleep(takes * percent / 100);
        killed += usize::from(run.try_wait().unwrap().is_none());
        run.kill().unwrap();
        run.wait().unwrap();
        if out.exists() {
            return killed;
        }
    }
    let ran = gptq(quantize(out, options));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    killed
}

/// The run is killed again and again, each time somewhere else, until it comes to its end.
#[test]
fn killed_runs_end_with_the_bytes_of_one_that_was_not() {
    let all: [&[&str]; 4] = [
        &[],
        &["--save-every", "0", "--gptaq", "--eora-rank", "4"],
        &["--save-every", "0", "--max-ram", "0.08", "--no-true-sequential"],
        &["--method", "rtn", "--bits", "8"],
    ];
    for options in all {
        let dir = tempfile::tempdir().unwrap();
        let (whole, out) = (dir.path().join("a/out"), dir.path().join("b/out"));
        let started = Instant::now();
        let ran = gptq(quantize(&whole, options));
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let takes = started.elapsed();
        // Rounding is over soon.
        let least = if options.contains(&"rtn") { 1 } else { 3 };
        // The first run may have been a slow one.
        let mut killed = (0..6).map(|h| killed_until_done(&out, options, takes / (1 << h)));
        assert!(killed.any(|times| times >= least), "killed too rarely with {options:?}");
        assert!(contents(&whole) == contents(&out), "bytes differ with {options:?}");
        assert_eq!(figures(&whole), figures(&out));
        // One that was killed after its last step is tidied up after by the next.
        assert_ne!(gptq(quantize(&out, options)).code, 0);
        assert_eq!(fs::read_dir(dir.path().join("b")).unwrap().count(), 1, "something is left");
        assert_eq!(gptq(args!["verify", &out, "--source", mini()]).code, 0);
    }
}

/// A run that stopped after a block, by a limit on the size of files.
fn interrupted(dir: &Path, options: &[&str]) -> PathBuf {
    let out = dir.join("out");
    for wait in 1..200 {
        let mut run = Command::new(env!("CARGO_BIN_EXE_gptq"));
        let run = run.args(quantize(&out, options)).stdout(Stdio::null()).stderr(Stdio::null());
        let mut run = run.spawn().unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) && steps(&out) < 2 {
            sleep(Duration::from_millis(1));
        }
        run.kill().unwrap();
        run.wait().unwrap();
        if !out.exists() {
            return out;
        }
        fs::remove_dir_all(&out).unwrap();
        assert!(wait < 100, "the run always ends before it can be killed");
    }
    out
}

/// Steps that the journal of an unfinished run tells of.
fn steps(out: &Path) -> usize {
    let journal = out.with_file_name("out.partial").join("journal");
    fs::read_to_string(journal).map_or(0, |text| text.matches("{\"step\":").count())
}

#[test]
fn another_run_does_not_go_on_with_it_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = interrupted(dir.path(), &[]);
    let before = steps(&out);
    let ran = gptq(quantize(&out, &["--bits", "3", "--asym"]));
    ran.fails(1, &["out.partial", "bits was 4 and is 3", "sym was true and is false", "--restart"]);
    let ran = gptq(quantize(&out, &["--seed", "7"]));
    ran.fails(1, &["out.partial", "the calibration tokens are not the same"]);
    let ran =
        gptq(args!["convert", fixture_quantized(dir.path()), "--to", "gptq_v2", "--out", &out]);
    ran.fails(1, &["out.partial", "interrupted gptq quantize", "start that again"]);
    assert_eq!(steps(&out), before);

    let ran = gptq(quantize(&out, &[]));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("going on after"), "{}", ran.stderr);
    assert_eq!(report(&out)["interruptions"], 1);
}

fn fixture_quantized(dir: &Path) -> PathBuf {
    let out = dir.join("quantized");
    assert_eq!(short_run(&mini(), &out, &["--method", "rtn"]).code, 0);
    out
}

#[test]
fn a_restart_begins_again() {
    let dir = tempfile::tempdir().unwrap();
    let out = interrupted(dir.path(), &[]);
    let ran = gptq(quantize(&out, &["--bits", "3", "--restart"]));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(!ran.stderr.contains("going on"), "{}", ran.stderr);
    assert_eq!(report(&out)["interruptions"], 0);
    assert_eq!(report(&out)["settings"]["bits"], 3);
}

/// Whatever was damaged in between is found by its hash and done again.
#[test]
fn a_finished_block_that_was_damaged_is_done_again() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    assert_eq!(gptq(quantize(&whole, &[])).code, 0);
    let out = interrupted(dir.path(), &[]);
    let file = dir.path().join("out.partial/result/model.safetensors.partial");
    let mut bytes = fs::read(&file).unwrap();
    // Of the first block, which comes before the others.
    let reference = fs::read(whole.join("model.safetensors")).unwrap();
    let header = u64::from_le_bytes(reference[..8].try_into().unwrap()) as usize;
    let tensors: serde_json::Value = serde_json::from_slice(&reference[8..8 + header]).unwrap();
    let at = &tensors["model.layers.0.mlp.down_proj.qweight"]["data_offsets"][0];
    bytes[8 + header + at.as_u64().unwrap() as usize] ^= 4;
    fs::write(&file, bytes).unwrap();

    let ran = gptq(quantize(&out, &[]));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("are not what it wrote"), "{}", ran.stderr);
    assert!(contents(&whole) == contents(&out));
}

#[test]
fn a_journal_that_was_damaged_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let out = interrupted(dir.path(), &[]);
    let journal = dir.path().join("out.partial/journal");
    let mut bytes = fs::read(&journal).unwrap();
    bytes[80] ^= 1;
    fs::write(&journal, &bytes).unwrap();
    gptq(quantize(&out, &[])).fails(1, &["out.partial/journal", "damaged", "--restart"]);
    assert_eq!(fs::read(&journal).unwrap(), bytes);
    assert_eq!(gptq(quantize(&out, &["--restart"])).code, 0);
}

/// Runs a command line with a limit on the size of a file, as a full disk would have it.
fn limited(kilobytes: u32, out: &Path, options: &[&str]) -> Ran {
    let script = format!("trap '' XFSZ; ulimit -f {kilobytes}; exec \"$@\"");
    let mut command = assert_cmd::Command::new("bash");
    let command = command.args(["-c", &script, "bash", env!("CARGO_BIN_EXE_gptq")]);
    let output = command.args(quantize(out, options)).output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Samples that cannot be saved are no reason to stop.
#[cfg(unix)]
#[test]
fn samples_that_do_not_fit_are_told_and_the_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, out) = (dir.path().join("whole"), dir.path().join("out"));
    assert_eq!(gptq(quantize(&whole, &[])).code, 0);
    let largest = fs::metadata(whole.join("model.safetensors")).unwrap().len();
    // Each of 24 · 128 tokens holds 128 floats: as much again as the result, and more.
    let samples = 24 * 128 * 128 * 4;
    assert!(largest < samples, "{largest}");
    let ran = limited((samples / 1024 - 1) as u32, &out, &["--save-every", "0"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("could not be saved"), "{}", ran.stderr);
    assert!(contents(&whole) == contents(&out));
}

/// A disk of its own, filled up and freed again: what was done is kept, and the end is the same.
///
/// Needs Linux and namespaces that users may make.
#[test]
#[ignore = "mounts a small file system"]
fn a_full_disk_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let options = ["--eora-rank", "16", "--save-every", "0"];
    assert_eq!(gptq(quantize(&whole, &options)).code, 0);
    let needed: u64 = contents(&whole).values().map(|file| file.len() as u64).sum();

    let (disk, kept) = (dir.path().join("disk"), dir.path().join("out"));
    fs::create_dir(&disk).unwrap();
    // Room grows by 100 kB from attempt to attempt, from less than the result to enough.
    let script = r#"
        disk=$1 kept=$2 needed=$3; shift 3
        mount -t tmpfs -o size=$((4 * needed)) none "$disk"
        for room in $(seq $((needed / 2)) 100000 $((4 * needed))); do
            head -c $((4 * needed - room)) /dev/zero > "$disk/filler"
            "$@" && break
            echo "code $?"
            rm -f "$disk/filler"
        done
        cp -r "$disk/out" "$kept"
        ls -A "$disk"
    "#;
    let mut command = assert_cmd::Command::new("unshare");
    let command = command.args(["-rm", "bash", "-c", script, "bash"]);
    let command = command.args([&disk, &kept]).arg(needed.to_string());
    let command = command.arg(env!("CARGO_BIN_EXE_gptq"));
    let output = command.args(quantize(&disk.join("out"), &options)).output().unwrap();
    let (said, errors) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(said.contains("code 1") && !said.contains("code 2"), "{said}{errors}");
    assert!(errors.contains("No space left"), "{errors}");
    assert!(errors.contains("blocks are finished and kept in"), "{errors}");
    assert!(errors.contains("going on after"), "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    assert!(!said.contains("out.partial"), "{said}");
    assert!(contents(&whole) == contents(&kept), "{errors}");
}
