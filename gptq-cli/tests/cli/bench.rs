//! `gptq bench`, and what a run says of memory and precision.

use tempfile::TempDir;

use super::{args, gptq, mini, short_run};

/// Figures of a machine are positive numbers, or null where it has no such instructions.
#[test]
fn the_machine_is_measured() {
    let figures = gptq(args!["bench", "machine", "--json"]).json();
    assert!(figures["threads"].as_u64().unwrap() > 0);
    for key in ["f32_products", "bf16_products", "int8_dots", "read_bandwidth"] {
        for threads in ["one_thread", "all_threads"] {
            let figure = &figures[key][threads];
            assert!(figure.is_null() || figure.as_f64().unwrap() > 1e6, "{key}: {figure}");
        }
    }
    assert!(figures["f32_products"]["one_thread"].is_number());
}

#[test]
fn decoding_is_measured() {
    let figures =
        gptq(args!["bench", "decode", mini(), "--prompt-tokens", "8", "--tokens", "4", "--json",])
            .json();
    assert_eq!((figures["prompt_tokens"].as_u64(), figures["tokens"].as_u64()), (Some(8), Some(4)));
    for key in ["prefill_tokens_per_second", "decode_tokens_per_second", "weight_bytes_per_token"] {
        assert!(figures[key].as_f64().unwrap() > 0.0, "{key}");
    }
}

#[test]
fn a_run_says_what_computed_and_what_it_took() {
    let parent = TempDir::new().unwrap();
    let f32 = ["--precision", "f32", "--json"];
    let report = short_run(&mini(), &parent.path().join("q"), &f32).json();
    assert!(report["computed"].as_str().unwrap().starts_with("f32 on "), "{report}");
    assert!(report["memory"]["weights_bytes"].as_u64().unwrap() > 0, "{report}");

    let little = short_run(&mini(), &parent.path().join("r"), &["--max-ram", "0.02"]);
    little.fails(1, &["does not fit 19 MiB", "Hessian", "allow that much"]);
    let none = short_run(&mini(), &parent.path().join("r"), &["--max-ram", "0"]);
    none.fails(2, &["--max-ram must be above 0"]);
}
