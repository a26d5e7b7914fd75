//! gptq-models: a LLaMA of any size with random weights, for measuring time, memory and disk.
//!
//! `cargo run --release -p gptq-examples --example random_llama -- OUT_DIR [--preset 1.1b] [--layers 2 …]`
//!
//! | preset | hidden | intermediate | layers | heads | kv-heads | vocab |
//! |---|--:|--:|--:|--:|--:|--:|
//! | `110m` | 768 | 2048 | 12 | 12 | 12 | 32000 |
//! | `1.1b` | 2048 | 5632 | 22 | 32 | 4 | 32000 |
//! | `8b` | 4096 | 14336 | 32 | 32 | 8 | 128256 |
//!
//! Every column is an option too, and so is `--seed`. The folder has `config.json`, BF16 shards and
//! a byte-level `tokenizer.json`, so every command of `gptq` and other tools take it. Weights are
//! near normal with a deviation of 0.02; norms are 1. Memory holds one tensor at a time.
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::path::PathBuf;

use gptq_models::{Architecture, CheckpointWriter, Staging, TensorSpec};
use half::bf16;
use safetensors::Dtype;
use serde_json::{Map, Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    // Without arguments: a small one, into a temporary folder.
    let temporary = tempfile::tempdir()?;
    let (out, mut sizes) = match args.next() {
        Some(out) => (PathBuf::from(out), preset("1.1b").ok_or("no such preset")?),
        None => (temporary.path().join("random"), SMALL),
    };
    let args: Vec<String> = args.collect();
    let (options, rest) = args.as_chunks::<2>();
    if let Some(option) = rest.first() {
        return Err(format!("{option}: give it a value").into());
    }
    // The preset first, wherever it stands, so that it overrides no other option.
    for [_, name] in options.iter().filter(|[option, _]| option == "--preset") {
        sizes = preset(name).ok_or_else(|| format!("{name}: presets are 110m, 1.1b and 8b"))?;
    }
    for [option, value] in options.iter().filter(|[option, _]| option != "--preset") {
        let size = sizes.get_mut(option).ok_or_else(|| format!("{option}: not an option"))?;
        *size = value.parse().map_err(|e| format!("{option} {value}: {e}"))?;
    }
    let config = config(&sizes);
    let specs = specs(&Architecture::from_config(&config, "config.json")?);

    let staging = Staging::create(&out)?;
    let files = [
        ("config.json", config),
        ("tokenizer.json", tokenizer(sizes.vocab)),
        ("tokenizer_config.json", json!({"tokenizer_class": "PreTrainedTokenizerFast"})),
    ];
    for (name, json) in files {
        std::fs::write(staging.path().join(name), serde_json::to_string_pretty(&json)?)?;
    }
    let writer = CheckpointWriter::create(staging.path(), &specs, 5_000_000_000)?;
    for (i, spec) in specs.iter().enumerate() {
        let count = spec.shape.iter().product();
        let seed = sizes.seed << 32 | i as u64;
        let values: Vec<u8> = match spec.shape.len() {
            1 => bf16::ONE.to_le_bytes().repeat(count),
            _ => random(seed).take(count).flat_map(|w| bf16::from_f32(w).to_le_bytes()).collect(),
        };
        writer.put(&spec.name, &values)?;
    }
    let written = writer.finish()?;
    staging.finish()?;
    println!("{}: {} tensors, {} bytes", out.display(), specs.len(), written.tensor_bytes);
    Ok(())
}

struct Sizes {
    hidden: u64,
    intermediate: u64,
    layers: u64,
    heads: u64,
    kv_heads: u64,
    vocab: u64,
    seed: u64,
}

const SMALL: Sizes = sizes([128, 256, 2, 4, 2, 512]);

/// In the order of the table's columns.
const fn sizes([hidden, intermediate, layers, heads, kv_heads, vocab]: [u64; 6]) -> Sizes {
    Sizes { hidden, intermediate, layers, heads, kv_heads, vocab, seed: 0 }
}

fn preset(name: &str) -> Option<Sizes> {
    Some(sizes(match name {
        "110m" => [768, 2048, 12, 12, 12, 32000],
        "1.1b" => [2048, 5632, 22, 32, 4, 32000],
        "8b" => [4096, 14336, 32, 32, 8, 128_256],
        _ => return None,
    }))
}

impl Sizes {
    fn get_mut(&mut self, option: &str) -> Option<&mut u64> {
        match option {
            "--hidden" => Some(&mut self.hidden),
            "--intermediate" => Some(&mut self.intermediate),
            "--layers" => Some(&mut self.layers),
            "--heads" => Some(&mut self.heads),
            "--kv-heads" => Some(&mut self.kv_heads),
            "--vocab" => Some(&mut self.vocab),
            "--seed" => Some(&mut self.seed),
            _ => None,
        }
    }
}

fn config(sizes: &Sizes) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "vocab_size": sizes.vocab,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": false,
        "torch_dtype": "bfloat16",
    })
}

/// Byte-level BPE: ids under 256 are the bytes, and id `t` after them is what id `t / 256 - 1`
/// stands for, followed by the byte `t % 256`. Every text has ids, and every id a text of its own.
fn tokenizer(vocab: u64) -> Value {
    let (mut texts, mut merges): (Vec<String>, Vec<Value>) = Default::default();
    for id in 0..vocab as usize {
        texts.push(match id {
            0..256 => byte_symbol(id as u32).to_string(),
            _ => {
                let (left, right) = (&texts[id / 256 - 1], &texts[id % 256]);
                merges.push(json!([left, right]));
                format!("{left}{right}")
            }
        });
    }
    let vocab: Map<String, Value> = texts.into_iter().zip((0..vocab).map(Value::from)).collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    })
}

/// The printable character that byte-level tokenizers write for a byte: itself where it prints,
/// else the next unused one from 256 on.
fn byte_symbol(byte: u32) -> char {
    let prints = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let code = match prints(byte) {
        true => byte,
        false => 256 + (0..byte).filter(|&b| !prints(b)).count() as u32,
    };
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Every tensor of a model, block by block.
fn specs(arch: &Architecture) -> Vec<TensorSpec> {
    let c = &arch.config;
    let spec = |name: String, shape: &[usize]| TensorSpec {
        name,
        dtype: Dtype::BF16,
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
