//! Models of families that are not known, and tensors that known ones do not explain.

use gptq_core::Reference;
use gptq_models::{Error, Method, QuantizeOptions, Report, quantize};
use gptq_tests::{assert_says, random_tokens};
use serde_json::json;

use crate::golden::{Golden, open};

fn run(golden: &Golden, options: &QuantizeOptions) -> Result<Report, Error> {
    let (source, parent) = (golden.folder(), tempfile::tempdir().unwrap());
    let samples = random_tokens(7, 2, 8);
    let samples = if options.method == Method::Rtn { &[][..] } else { &samples };
    let out = parent.path().join("out");
    quantize(&open(source.path()), samples, &Reference, options, &out, &mut ())
}

fn rtn() -> QuantizeOptions {
    QuantizeOptions { method: Method::Rtn, ..QuantizeOptions::default() }
}

#[test]
fn rounding_needs_no_graph_and_says_so() {
    let mut golden = Golden::of("llama");
    let known = run(&golden, &rtn()).unwrap();
    golden.files.config["model_type"] = json!("quokka");
    let report = run(&golden, &rtn()).unwrap();
    assert_eq!(report.coverage, known.coverage);
    let names = |report: &Report| {
        let mut names: Vec<_> = report.layers.iter().map(|l| l.name.clone()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&report), names(&known));
    assert_says(&report.notices.concat(), &["family is unknown", "names and shapes", "14"]);
}

#[test]
fn gptq_fails_early_and_names_the_families() {
    let mut golden = Golden::of("llama");
    golden.files.config["model_type"] = json!("quokka");
    let error = run(&golden, &QuantizeOptions::default()).unwrap_err();
    assert_says(&error.to_string(), &["quokka", "llama", "opt", "bloom", "gpt_oss", "mixtral"]);
}

#[test]
fn a_matrix_that_the_graph_does_not_know_fails_the_run_unless_a_rule_skips_it() {
    let mut golden = Golden::of("llama");
    let extra = golden.files.tensors["model.layers.0.self_attn.q_proj.weight"].clone();
    golden.files.tensors.insert("model.layers.0.mlp.side_proj.weight".into(), extra);
    let error = run(&golden, &rtn()).unwrap_err();
    assert_says(&error.to_string(), &["model.layers.0.mlp.side_proj.weight", "llama", "--dynamic"]);
    let rules = json!({r"-:.*\.side_proj": {}});
    let dynamic = gptq_pack::DynamicRules::from_json(&rules).unwrap();
    let report = run(&golden, &QuantizeOptions { dynamic, ..rtn() }).unwrap();
    assert_eq!(report.coverage.quantized, report.coverage.expected);
}

#[test]
fn a_text_longer_than_the_learned_positions_is_refused() {
    let golden = Golden::of("gpt2");
    let model = golden.load(Reference);
    let longest = golden.files.config["n_positions"].as_u64().unwrap() as usize;
    let error = model.logits(&vec![1; longest + 1]).unwrap_err();
    assert_says(&error.to_string(), &["positions", &longest.to_string()]);
}
