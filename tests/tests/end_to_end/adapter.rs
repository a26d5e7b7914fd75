//! Adapters of others on top of a model, dense or packed.

use std::{fs, path::Path};

use gptq_core::{Bits, Reference};
use gptq_models::{Adapter, Checkpoint, Model};
use gptq_tests::{
    ModelFiles, Stored, Tensors, assert_says, fixture, largest_difference, random_tokens,
    write_tensors,
};
use half::f16;
use ndarray::Array2;
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::{Run, load, options};

const Q: &str = "model.layers.0.self_attn.q_proj";
const DOWN: &str = "model.layers.1.mlp.down_proj";

fn matrix(rows: usize, columns: usize, seed: usize) -> Array2<f32> {
    let value = |(r, c)| ((r * 31 + c * 17 + seed * 7) % 23) as f32 / 115.0 - 0.1;
    Array2::from_shape_fn((rows, columns), value)
}

fn stored(matrix: &Array2<f32>) -> Stored {
    let bytes = matrix.iter().flat_map(|x| x.to_le_bytes()).collect();
    Stored { dtype: Dtype::F32, shape: matrix.shape().to_vec(), bytes }
}

/// Rank 4 on one linear, rank 2 on another.
fn pairs() -> Vec<(&'static str, Array2<f32>, Array2<f32>)> {
    vec![(Q, matrix(4, 64, 1), matrix(64, 4, 2)), (DOWN, matrix(2, 96, 3), matrix(64, 2, 4))]
}

fn tensors() -> Tensors {
    let mut out = Tensors::new();
    for (name, a, b) in pairs() {
        out.insert(format!("base_model.model.{name}.lora_A.weight"), stored(&a));
        out.insert(format!("base_model.model.{name}.lora_B.weight"), stored(&b));
    }
    out
}

fn config() -> Value {
    json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8,
        "rank_pattern": {"down_proj": 2}, "alpha_pattern": {"layers.1.mlp.down_proj": 3}})
}

fn write(dir: &Path, config: &Value, tensors: &Tensors) {
    fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    write_tensors(&dir.join("adapter_model.safetensors"), tensors);
}

/// The dense fixture in F32 with `factor · B · A` added to its weights.
fn merged(dir: &Path, factors: [f32; 2]) {
    let mut model = ModelFiles::of("arch/llama");
    for ((name, a, b), factor) in pairs().iter().zip(factors) {
        let tensor = model.tensor(&format!("{name}.weight"));
        let halves = tensor.bytes.as_chunks::<2>().0.iter();
        let weight: Vec<f32> = halves.map(|&h| f16::from_le_bytes(h).to_f32()).collect();
        let weight = Array2::from_shape_vec((b.nrows(), a.ncols()), weight).unwrap();
        *tensor = stored(&(weight + b.dot(a) * factor));
    }
    model.write(dir);
}

#[test]
fn a_dense_model_with_an_adapter_is_the_model_it_was_merged_into() {
    let (dir, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ids = &random_tokens(4, 1, 40)[0];
    let with_root = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": true});
    let half = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 2});
    for (config, factors) in [
        (config(), [8.0 / 4.0, 3.0 / 2.0]),
        (with_root, [8.0 / 4f32.sqrt(), 8.0 / 2f32.sqrt()]),
        (half, [2.0 / 4.0, 2.0 / 2.0]),
    ] {
        write(dir.path(), &config, &tensors());
        merged(whole.path(), factors);
        let adapter = Adapter::open(dir.path()).unwrap();
        let adapted = load(&fixture("arch/llama")).with_adapter(&adapter).unwrap();
        let expected = load(whole.path()).logits(ids).unwrap();
        let gap = largest_difference(&adapted.logits(ids).unwrap(), &expected);
        assert!(gap < 1e-4, "{config}: {gap}");
        let plain = load(&fixture("arch/llama")).logits(ids).unwrap();
        assert!(largest_difference(&plain, &expected) > 0.01, "the adapter does something");
    }
}

#[test]
fn a_packed_model_takes_one_too_on_both_backends_and_while_it_generates() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &config(), &tensors());
    let adapter = Adapter::open(dir.path()).unwrap();
    let run = Run::with(&options(Bits::B4));
    let fast = run.load().with_adapter(&adapter).unwrap();
    let plain = Model::load(&Checkpoint::open(&run.dir).unwrap(), Reference).unwrap();
    let plain = plain.with_adapter(&adapter).unwrap();
    let ids = &random_tokens(4, 1, 40)[0];
    let logits = fast.logits(ids).unwrap();
    let gap = largest_difference(&logits, &plain.logits(ids).unwrap());
    assert!(gap < 1e-4, "{gap}");
    assert!(largest_difference(&run.load().logits(ids).unwrap(), &logits) > 0.01);

    let mut cache = fast.cache(40).unwrap();
    fast.next_logits(&ids[..39], &mut cache).unwrap();
    let last = fast.next_logits(&ids[39..], &mut cache).unwrap();
    let last = Array2::from_shape_vec((1, last.len()), last).unwrap();
    let row = logits.row(39).insert_axis(ndarray::Axis(0)).to_owned();
    assert!(largest_difference(&last, &row) < 1e-4);
}

#[test]
fn halves_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut halves = Tensors::new();
    for (name, tensor) in tensors() {
        let wide = tensor.bytes.as_chunks::<4>().0.iter();
        let bytes = wide.flat_map(|&b| f16::from_f32(f32::from_le_bytes(b)).to_le_bytes());
        halves.insert(name, Stored { dtype: Dtype::F16, bytes: bytes.collect(), ..tensor });
    }
    write(dir.path(), &config(), &halves);
    let adapter = Adapter::open(dir.path()).unwrap();
    assert_eq!(adapter.modules().collect::<Vec<_>>(), [Q, DOWN]);
    load(&fixture("arch/llama")).with_adapter(&adapter).unwrap();
}

/// The error of opening an adapter, or of putting it on the fixture.
fn refused(change: impl FnOnce(&mut Value, &mut Tensors)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let (mut config, mut tensors) = (config(), tensors());
    change(&mut config, &mut tensors);
    write(dir.path(), &config, &tensors);
    match Adapter::open(dir.path()) {
        Err(error) => error.to_string(),
        Ok(adapter) => {
            let model = load(&fixture("arch/llama")).with_adapter(&adapter);
            model.err().expect("an adapter that does not fit").to_string()
        }
    }
}

fn name(linear: &str, side: &str) -> String {
    format!("base_model.model.{linear}.lora_{side}.weight")
}

#[test]
fn what_does_not_fit_is_named() {
    let said = refused(|_, t| drop(t.remove(&name(Q, "B"))));
    assert_says(&said, &["adapter_model.safetensors", "holds no", &name(Q, "B")]);
    let said = refused(|_, t| drop(t.insert(name(Q, "B"), stored(&matrix(64, 3, 0)))));
    assert_says(&said, &[Q, "[4, 64]", "[64, 3]"]);
    let said = refused(|_, t| drop(t.insert(name(Q, "A"), stored(&matrix(4, 32, 0)))));
    assert_says(&said, &[Q, "64 × 32", "64 × 64", "another model"]);
    let said = refused(|_, t| {
        t.insert(name("model.layers.7.mlp.up_proj", "A"), stored(&matrix(4, 64, 0)));
        t.insert(name("model.layers.7.mlp.up_proj", "B"), stored(&matrix(96, 4, 0)));
    });
    assert_says(&said, &["model.layers.7.mlp.up_proj", "no linear of this model"]);
    let said = refused(|_, t| drop(t.insert("lm_head.weight".into(), stored(&matrix(4, 4, 0)))));
    assert_says(&said, &["lm_head.weight", "no LoRA matrix"]);
    let said = refused(|_, t| t.get_mut(&name(Q, "A")).unwrap().shape = vec![4, 8, 8]);
    assert_says(&said, &["lora_A", "[4, 8, 8]"]);
    let said = refused(|_, t| t.get_mut(&name(Q, "A")).unwrap().bytes[..4].fill(0xff));
    assert_says(&said, &["lora_A", "NaN"]);
}

#[test]
fn kinds_of_adapters_that_are_more_than_a_product_are_refused() {
    let said = refused(|c, _| c["peft_type"] = json!("IA3"));
    assert_says(&said, &["adapter_config.json", "peft_type", "IA3"]);
    let said = refused(|c, _| c["use_dora"] = json!(true));
    assert_says(&said, &["use_dora"]);
    let said = refused(|c, _| drop(c.as_object_mut().unwrap().remove("lora_alpha")));
    assert_says(&said, &["lora_alpha", "missing"]);
    let said = refused(|c, _| c["alpha_pattern"] = json!({"(": 1}));
    assert_says(&said, &["alpha_pattern", "("]);
}

#[test]
fn a_folder_without_an_adapter_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let said = Adapter::open(dir.path()).unwrap_err().to_string();
    assert_says(&said, &["adapter_config.json"]);
    fs::write(dir.path().join("adapter_config.json"), config().to_string()).unwrap();
    let said = Adapter::open(dir.path()).unwrap_err().to_string();
    assert_says(&said, &["adapter_model.safetensors"]);
}
