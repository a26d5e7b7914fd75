//! `diff`.

use crate::{args, fixture, gptq};

#[test]
fn a_folder_and_itself() {
    let model = fixture("checkpoints/b4_g32_sym");
    let ran = gptq(args!["diff", model.as_path(), model.as_path()]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.starts_with("no difference\n"), "{}", ran.stdout);
    assert_eq!(
        gptq(args!["diff", model.as_path(), model.as_path(), "--json"]).json()["equal"],
        true
    );
}

#[test]
fn differences_are_no_failure() {
    let (a, b) = (fixture("arch/llama"), fixture("checkpoints/b4_g32_sym_act"));
    let ran = gptq(args!["diff", a.as_path(), b.as_path()]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for word in ["quantization_config.bits", "14 layers", "dense F16", "scattered g_idx", "rms"] {
        assert!(ran.stdout.contains(word), "{word}: {}", ran.stdout);
    }
    assert!(!ran.stdout.contains("no difference"));
    let long = gptq(args!["diff", a.as_path(), b.as_path(), "--layers"]);
    assert!(long.stdout.contains("model.layers.0.self_attn.q_proj"), "{}", long.stdout);
    assert_eq!(long.stdout.matches("_proj").count(), 14);
    let said = gptq(args!["diff", a, b, "--json"]).json();
    assert_eq!((&said["equal"], &said["same_weights"]), (&false.into(), &false.into()));
    assert_eq!(said["layers"].as_array().unwrap().len(), 14);
}
