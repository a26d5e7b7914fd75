//! `--eora-rank`, and `--adapter` in the commands that run models.

use crate::{args, fixture, gptq, mini, read_tensors, text};

#[test]
fn an_adapter_computed_along_brings_the_model_back() {
    let dir = tempfile::tempdir().unwrap();
    let (out, adapter) = (dir.path().join("out"), dir.path().join("adapter"));
    let quantized = gptq(args![
        "quantize",
        mini(),
        "--out",
        out,
        "--calib",
        text("calibration.txt"),
        "--nsamples",
        "8",
        "--seqlen",
        "128",
        "--bits",
        "2",
        "--group-size",
        "32",
        "--eora-rank",
        "16",
        "--eora-out",
        adapter,
        "--json",
    ])
    .json();
    assert_eq!(quantized["adapter"]["rank"], 16);
    assert_eq!(quantized["adapter"]["modules"], 28);
    assert_eq!(quantized["adapter"]["path"], adapter.display().to_string());
    let eval = |extra: &[std::ffi::OsString]| {
        let fixed = args![
            "eval",
            out,
            "--text",
            text("evaluation.txt"),
            "--seqlen",
            "128",
            "--max-windows",
            "8",
            "--reference",
            mini(),
            "--json",
        ];
        gptq(fixed.iter().chain(extra)).json()["kl"].as_f64().unwrap()
    };
    let (plain, adapted) = (eval(&[]), eval(&args!["--adapter", adapter]));
    assert!(adapted < plain, "{adapted} against {plain}");

    let generate = args![
        "generate",
        out,
        "--prompt",
        "The sea",
        "--max-new-tokens",
        "2",
        "--adapter",
        adapter,
        "--json",
    ];
    gptq(generate).json();
    // The adapter belongs to this model and to no other.
    let ids = fixture("arch/llama/expected.safetensors");
    let logits = dir.path().join("logits.safetensors");
    let llama = fixture("arch/llama");
    let wrong = args!["logits", llama, "--ids", ids, "--out", logits, "--adapter", adapter];
    gptq(wrong).fails(1, &["adapter", "another"]);
    assert!(!logits.exists());
}

#[test]
fn logits_change_with_an_adapter() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (fixture("arch/llama"), dir.path().join("out"));
    let text = dir.path().join("ids.jsonl");
    let ids: Vec<u32> = (0..2048u32).map(|i| i * 7919 % 320).collect();
    std::fs::write(&text, format!("{{\"input_ids\": {ids:?}}}\n")).unwrap();
    // The fixture has no tokenizer; ids need one only to be opened.
    let folder = dir.path().join("model");
    std::fs::create_dir(&folder).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(model.join(name), folder.join(name)).unwrap();
    }
    std::fs::copy(mini().join("tokenizer.json"), folder.join("tokenizer.json")).unwrap();
    let ran = gptq(args![
        "quantize",
        folder,
        "--out",
        out,
        "--calib",
        text,
        "--nsamples",
        "8",
        "--seqlen",
        "48",
        "--bits",
        "2",
        "--group-size",
        "32",
        "--eora-rank",
        "8",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("adapter of rank 8 for 14 linears"), "{}", ran.stdout);
    let logits = |extra: &[std::ffi::OsString]| {
        let file = dir.path().join("logits.safetensors");
        let ids = fixture("arch/llama/expected.safetensors");
        let fixed = args!["logits", out, "--ids", ids, "--out", file, "--json"];
        gptq(fixed.iter().chain(extra)).json();
        read_tensors(&file)["logits"].values::<f32>()
    };
    let expected = read_tensors(&fixture("arch/llama/expected.safetensors"));
    let expected: Vec<f32> = expected["logits"].values();
    let distance = |logits: Vec<f32>| -> f32 {
        assert_eq!(logits.len(), expected.len());
        logits.iter().zip(&expected).map(|(a, b)| (a - b).powi(2)).sum()
    };
    let (plain, adapted) =
        (distance(logits(&[])), distance(logits(&args!["--adapter", out.join("eora")])));
    assert!(adapted < plain, "{adapted} against {plain}");
}
