//! Calibration tokens and settings that make no sense.

use gptq_kernels::CpuBackend;
use gptq_models::{Checkpoint, Method, Model, QuantizeOptions, quantize};
use gptq_pack::DynamicRules;
use gptq_tests::{assert_says, file_names, fixture, random_tokens};
use serde_json::json;

use crate::options;

/// The message with which a run on the sound model is refused.
fn refused(samples: &[Vec<u32>], options: &QuantizeOptions) -> String {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("out");
    let source = Checkpoint::open(&fixture("arch/llama")).unwrap();
    let backend = CpuBackend::new();
    let error = quantize(&source, samples, &backend, options, &out, &mut ()).unwrap_err();
    assert_eq!(file_names(parent.path()), [""; 0]);
    error.to_string()
}

#[test]
fn no_samples_are_refused() {
    assert_says(&refused(&[], &options(Method::Gptq)), &["calibration tokens", "none"]);
}

#[test]
fn an_empty_sample_is_refused() {
    assert_says(&refused(&[vec![], vec![]], &options(Method::Gptq)), &["no tokens"]);
}

#[test]
fn a_token_outside_the_vocabulary_is_named_with_its_place() {
    for id in [320, u32::MAX] {
        let mut samples = random_tokens(1, 2, 16);
        samples[1][7] = id;
        let error = refused(&samples, &options(Method::Gptq));
        assert_says(&error, &[&format!("token id {id}"), "position 7", "vocabulary of 320"]);
    }
}

#[test]
fn samples_of_different_lengths_are_refused_with_both() {
    let mut samples = random_tokens(1, 3, 16);
    samples[2].pop();
    assert_says(&refused(&samples, &options(Method::Gptq)), &["16", "15", "same length"]);
}

#[test]
fn a_token_outside_the_vocabulary_cannot_be_run_either() {
    let source = Checkpoint::open(&fixture("arch/llama")).unwrap();
    let model = Model::load(&source, CpuBackend::new()).unwrap();
    let error = model.logits(&[1, 2, 320]).unwrap_err().to_string();
    assert_says(&error, &["token id 320", "position 2", "vocabulary of 320"]);
    assert_says(&model.logits(&[]).unwrap_err().to_string(), &["no tokens"]);
}

#[test]
fn settings_that_contradict_each_other_are_refused_with_the_layer() {
    let mut options = options(Method::Gptq);
    options.config.act_order = gptq_core::ActOrder::GroupAware;
    options.config.static_groups = true;
    let error = refused(&random_tokens(1, 2, 16), &options);
    assert_says(&error, &["model.layers.0.self_attn.q_proj", "act_group_aware", "static_groups"]);
}

#[test]
fn damping_out_of_range_is_refused() {
    for percent in [-0.1, 1.0, f64::NAN, f64::INFINITY] {
        let mut options = options(Method::Gptq);
        options.config.damping.percent = percent;
        assert_says(&refused(&random_tokens(1, 2, 16), &options), &["damp_percent"]);
    }
}

#[test]
fn a_rule_that_makes_a_module_contradictory_is_refused_with_the_layer() {
    let mut options = options(Method::Gptq);
    let rules = json!({".*down_proj": {"act_group_aware": true, "group_size": -1}});
    options.dynamic = DynamicRules::from_json(&rules).unwrap();
    let error = refused(&random_tokens(1, 2, 16), &options);
    assert_says(&error, &["model.layers.0.mlp.down_proj", "group_size"]);
}
