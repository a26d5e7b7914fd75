//! A LLaMA of one block and some hundred weights, as a sound folder to spoil.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use safetensors::{Dtype, tensor::TensorView};
use tempfile::TempDir;

/// Its `config.json`.
pub(crate) const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1,
"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 16, "vocab_size": 16,
"max_position_embeddings": 32, "rms_norm_eps": 1e-6, "hidden_act": "silu", "eos_token_id": 2,
"tie_word_embeddings": false}"#;

/// A tokenizer of its vocabulary.
pub(crate) const TOKENIZER: &str = r#"{"version": "1.0", "added_tokens": [],
"pre_tokenizer": {"type": "Whitespace"}, "model": {"type": "WordLevel", "unk_token": "?",
"vocab": {"?": 0, "to": 1, "be": 2, "or": 3, "not": 4, "user": 5, "<": 6, ">": 7, "is": 15}}}"#;

/// Names and shapes of its tensors.
const TENSORS: [(&str, &[usize]); 12] = [
    ("lm_head.weight", &[16, 8]),
    ("model.embed_tokens.weight", &[16, 8]),
    ("model.layers.0.input_layernorm.weight", &[8]),
    ("model.layers.0.mlp.down_proj.weight", &[8, 16]),
    ("model.layers.0.mlp.gate_proj.weight", &[16, 8]),
    ("model.layers.0.mlp.up_proj.weight", &[16, 8]),
    ("model.layers.0.post_attention_layernorm.weight", &[8]),
    ("model.layers.0.self_attn.k_proj.weight", &[4, 8]),
    ("model.layers.0.self_attn.o_proj.weight", &[8, 8]),
    ("model.layers.0.self_attn.q_proj.weight", &[8, 8]),
    ("model.layers.0.self_attn.v_proj.weight", &[4, 8]),
    ("model.norm.weight", &[8]),
];

/// Writes it into a folder.
pub(crate) fn write(dir: &Path) {
    fs::write(dir.join("config.json"), CONFIG).unwrap();
    let tensors: Vec<(&str, &[usize], Vec<u8>)> = TENSORS
        .iter()
        .map(|&(name, shape)| {
            let count: usize = shape.iter().product();
            // Half-precision numbers from 1/2 to nearly 1, all different.
            let halves = (0..count).flat_map(|i| (0x3800 + i as u16).to_le_bytes());
            (name, shape, halves.collect())
        })
        .collect();
    let view = |(name, shape, bytes): &'_ (&'static str, &[usize], Vec<u8>)| {
        (*name, shape.to_vec(), bytes.clone())
    };
    let owned: Vec<_> = tensors.iter().map(view).collect();
    let views = owned.iter().map(|(name, shape, bytes)| {
        (*name, TensorView::new(Dtype::F16, shape.clone(), bytes).unwrap())
    });
    fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

/// An empty folder in memory, if the system has a place for that.
pub(crate) fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let builder = || tempfile::Builder::new().prefix("gptq-hostile-").rand_bytes(8).to_owned();
    let made = if memory.is_dir() { builder().tempdir_in(memory) } else { builder().tempdir() };
    made.unwrap()
}

/// The result of rounding the model, with a report: made once per process.
pub(crate) fn quantized() -> &'static Path {
    static MADE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, out) = MADE.get_or_init(|| {
        let dir = folder();
        let (model, out) = (dir.path().join("model"), dir.path().join("out"));
        fs::create_dir(&model).unwrap();
        write(&model);
        let source = gptq_models::Checkpoint::open(&model).unwrap();
        let options = gptq_models::QuantizeOptions {
            method: gptq_models::Method::Rtn,
            ..gptq_models::QuantizeOptions::default()
        };
        gptq_models::quantize(&source, &[], &gptq_core::Reference, &options, &out, &mut ())
            .unwrap();
        (dir, out)
    });
    out
}
