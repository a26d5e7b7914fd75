//! gptq-models: a LLaMA of any size with random weights, for measuring time, memory and disk.
//!
//! `cargo run --release -p gptq-examples --example random_llama -- OUT_DIR [key=value …]`
//!
//! Keys, with what they are if not given: `hidden=2048 intermediate=5632 layers=22 heads=32
//! kv_heads=32 vocab=32000 seed=0`. The folder has `config.json` and F16 shards, and no tokenizer.
//! Weights are near normal with a deviation of 0.02; norms are 1.
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::{collections::HashMap, path::PathBuf};

use gptq_models::{Architecture, CheckpointWriter, Staging, TensorSpec};
use half::f16;
use safetensors::Dtype;
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    // Without arguments: a small one, into a temporary folder.
    let temporary = tempfile::tempdir()?;
    let (out, mut sizes) = match args.next() {
        Some(out) => (PathBuf::from(out), defaults()),
        None => (temporary.path().join("random"), small()),
    };
    for arg in args {
        let (key, value) = arg.split_once('=').ok_or_else(|| format!("{arg}: give key=value"))?;
        let size = sizes.get_mut(key).ok_or_else(|| format!("{key}: not one of the keys"))?;
        *size = value.parse().map_err(|e| format!("{arg}: {e}"))?;
    }
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": sizes["hidden"],
        "intermediate_size": sizes["intermediate"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "num_key_value_heads": sizes["kv_heads"],
        "vocab_size": sizes["vocab"],
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": false,
        "torch_dtype": "float16",
    });
    let specs = specs(&Architecture::from_config(&config, "config.json")?);

    let staging = Staging::create(&out)?;
    let text = serde_json::to_string_pretty(&config)?;
    std::fs::write(staging.path().join("config.json"), text)?;
    let writer = CheckpointWriter::create(staging.path(), &specs, 5_000_000_000)?;
    for (i, spec) in specs.iter().enumerate() {
        let count = spec.shape.iter().product();
        let seed = sizes["seed"] << 32 | i as u64;
        let values: Vec<u8> = match spec.shape.len() {
            1 => f16::ONE.to_le_bytes().repeat(count),
            _ => random(seed).take(count).flat_map(|w| f16::from_f32(w).to_le_bytes()).collect(),
        };
        writer.put(&spec.name, &values)?;
    }
    let written = writer.finish()?;
    staging.finish()?;
    println!("{}: {} tensors, {} bytes", out.display(), specs.len(), written.tensor_bytes);
    Ok(())
}

type Sizes = HashMap<&'static str, u64>;

fn defaults() -> Sizes {
    let of_model = [("hidden", 2048), ("intermediate", 5632), ("layers", 22), ("heads", 32)];
    let others = [("kv_heads", 32), ("vocab", 32000), ("seed", 0)];
    of_model.into_iter().chain(others).collect()
}

fn small() -> Sizes {
    let of_model = [("hidden", 128), ("intermediate", 256), ("layers", 2), ("heads", 4)];
    let others = [("kv_heads", 2), ("vocab", 512)];
    defaults().into_iter().chain(of_model).chain(others).collect()
}

/// Every tensor of a model, block by block.
fn specs(arch: &Architecture) -> Vec<TensorSpec> {
    let c = &arch.config;
    let spec = |name: String, shape: &[usize]| TensorSpec {
        name,
        dtype: Dtype::F16,
        shape: shape.to_vec(),
    };
    let mut out = vec![spec(arch.graph.embed.table.name.clone(), &[c.vocab_size, c.hidden_size])];
    for block in &arch.graph.blocks {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            out.push(spec(format!("{}.{norm}.weight", block.name), &[c.hidden_size]));
        }
        for place in block.stages.iter().flat_map(|stage| stage.all_linears()) {
            let shape = [place.out_features, place.in_features];
            out.push(spec(format!("{}.weight", place.name), &shape));
        }
    }
    out.push(spec("model.norm.weight".into(), &[c.hidden_size]));
    out.push(spec(format!("{}.weight", arch.head().name), &[c.vocab_size, c.hidden_size]));
    out
}

/// Sums of four uniform numbers, which are close to normal; SplitMix64.
fn random(seed: u64) -> impl Iterator<Item = f32> {
    let mut state = seed.wrapping_mul(0xd134_2543_de82_ef95);
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let sum: u32 = (0..4).map(|i| (z >> (16 * i)) as u32 & 0xffff).sum();
        // Four numbers of variance 1/12 each.
        (sum as f32 / 65536.0 - 2.0) * (0.02 / 0.577_35)
    })
}
