//! `gptq demo`: the main job, with nothing but the binary.

use serde_json::Value;

use crate::gptq;

#[test]
fn gptq_is_closer_to_the_original_than_rounding_at_every_width() {
    let dir = tempfile::tempdir().unwrap();
    let keep = dir.path().join("kept");
    let said = gptq(["demo", "--json", "--keep", &keep.display().to_string()]).json();
    let models = said["models"].as_array().unwrap();
    let of = |name: &str, key: &str| -> f64 {
        let model = models.iter().find(|m| m["name"] == name);
        let model: &Value = model.unwrap_or_else(|| panic!("{name} is not in {said}"));
        model["eval"][key].as_f64().unwrap()
    };
    assert_eq!(models.len(), 7);
    let original = of("original", "ppl");
    for bits in [4, 3, 2] {
        let (gptq, rtn) = (format!("GPTQ {bits}-bit"), format!("RTN {bits}-bit"));
        let (ours, theirs) = (of(&gptq, "kl"), of(&rtn, "kl"));
        assert!(ours < theirs, "{bits} bits: {ours} against {theirs}");
        assert_eq!(of(&gptq, "ppl_reference"), original);
    }
    assert!(of("GPTQ 4-bit", "ppl") < 1.05 * original, "4 bits cost at most 5 %");
    assert!(said["calibration"]["n_samples"].as_u64().unwrap() > 0);
    assert_eq!(said["texts"].as_array().unwrap().len(), 2);

    // What was kept is a source and six checkpoints that load.
    let mut kept: Vec<String> = std::fs::read_dir(&keep)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    kept.sort();
    let names = [
        "gptq-2-bit",
        "gptq-3-bit",
        "gptq-4-bit",
        "original",
        "rtn-2-bit",
        "rtn-3-bit",
        "rtn-4-bit",
    ];
    assert_eq!(kept, names);
    let model = keep.join("gptq-3-bit").display().to_string();
    let found = gptq(["inspect", &model, "--json"]).json();
    assert_eq!(found["layers"].as_array().unwrap().len(), 28);
}
