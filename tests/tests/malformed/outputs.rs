//! Places where a result cannot go, and what may be cleared out of its way.

use std::fs;

use gptq_models::Method;
use gptq_tests::{assert_says, file_names, fixture};

use crate::run;

/// The message for one output path on the sound model.
fn refused(out: &std::path::Path) -> String {
    run(&fixture("arch/llama"), out, Method::Gptq).unwrap_err()
}

#[test]
fn a_folder_with_anything_in_it_is_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("thesis.tex"), "years of work").unwrap();
    assert_says(&refused(&out), &[&out.display().to_string(), "already exists"]);
    assert_eq!(file_names(parent.path()), ["out"]);
    assert_eq!(file_names(&out), ["thesis.tex"]);
}

#[test]
fn a_file_with_the_name_of_the_output_is_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("out");
    fs::write(&out, "years of work").unwrap();
    assert_says(&refused(&out), &[&out.display().to_string(), "already exists"]);
    assert_eq!(fs::read_to_string(&out).unwrap(), "years of work");
    assert_eq!(file_names(parent.path()), ["out"]);
}

#[test]
fn an_empty_folder_is_filled() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("out");
    fs::create_dir(&out).unwrap();
    run(&fixture("arch/llama"), &out, Method::Gptq).unwrap();
    assert!(out.join("model.safetensors").is_file());
    assert_eq!(file_names(parent.path()), ["out"]);
}

#[test]
fn the_source_itself_is_no_output() {
    let parent = tempfile::tempdir().unwrap();
    let source = parent.path().join("model");
    gptq_tests::copy_folder(&fixture("arch/llama"), &source);
    let before = file_names(&source);
    let error = run(&source, &source, Method::Gptq).unwrap_err();
    assert_says(&error, &["already exists"]);
    assert_eq!(file_names(&source), before);
}

#[test]
fn missing_parents_are_made() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("a/b/out");
    run(&fixture("arch/llama"), &out, Method::Rtn).unwrap();
    assert!(out.join("config.json").is_file());
}

#[test]
fn a_parent_that_is_a_file_is_named() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("notes.txt");
    fs::write(&file, "x").unwrap();
    assert_says(&refused(&file.join("out")), &["cannot create", "notes.txt"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "x");
}

#[test]
fn a_path_without_a_name_is_refused() {
    for path in ["..", "/"] {
        let error = refused(std::path::Path::new(path));
        assert_says(&error, &[path]);
    }
}

#[test]
fn remains_of_a_killed_run_are_cleared() {
    let parent = tempfile::tempdir().unwrap();
    let (out, partial) = (parent.path().join("out"), parent.path().join("out.partial"));
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join(".gptq-partial"), "").unwrap();
    fs::write(partial.join("model.safetensors.partial"), "half of it").unwrap();
    run(&fixture("arch/llama"), &out, Method::Gptq).unwrap();
    assert_eq!(file_names(parent.path()), ["out"]);
    assert!(!out.join("model.safetensors.partial").exists());
    assert!(!out.join(".gptq-partial").exists());
}

#[test]
fn a_folder_that_only_looks_like_remains_is_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    let (out, partial) = (parent.path().join("out"), parent.path().join("out.partial"));
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("thesis.tex"), "years of work").unwrap();
    let error = refused(&out);
    assert_says(&error, &["out.partial", "not left by an interrupted run"]);
    assert_eq!(file_names(parent.path()), ["out.partial"]);
    assert_eq!(file_names(&partial), ["thesis.tex"]);
}
