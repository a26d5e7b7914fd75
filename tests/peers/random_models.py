"""Small random models of many families and settings: logits of transformers against `gptq logits`.

The fixtures hold one or two settings of each family. Here are those that they leave out: windows on
some layers, ALiBi, old spellings, biases, routers without groups, and the like. Exit code 1 if one
of them is off by more than 2e-4 of the largest logit.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

TOLERANCE = 2e-4
TOKENS = 24
VOCAB = 160

IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BASE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": 128,
    **IDS,
}
LATENT = {
    **BASE,
    "num_key_value_heads": 4,
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 8,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
SLIDING = {"use_sliding_window": True, "sliding_window": 6}

# Name: model_type, what its config says beside the class defaults.
CASES = {
    "bloom, normed residual": ("bloom", {
        "hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": VOCAB,
        "apply_residual_connection_post_layernorm": True}),
    "cohere2": ("cohere2", {
        **BASE, "sliding_window": 7, "logit_scale": 0.25, "rope_theta": 777.0}),
    "deepseek_v2, greedy": ("deepseek_v2", {**LATENT, "num_experts_per_tok": 2}),
    "deepseek_v3, rope in halves": ("deepseek_v3", {
        **LATENT, "rope_interleave": False, "norm_topk_prob": False, "num_experts_per_tok": 3,
        "n_group": 2, "topk_group": 1, "attention_bias": True}),
    "falcon, alibi": ("falcon", {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCAB,
        "alibi": True, "new_decoder_architecture": False, "multi_query": False,
        "parallel_attn": False, "bias": True, **IDS}),
    "gemma3, old spelling": ("gemma3_text", {
        **BASE, "head_dim": 32, "sliding_window": 6, "sliding_window_pattern": 2,
        "rope_theta": 5000.0}),
    "gpt2, scaled by layer": ("gpt2", {
        "n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": VOCAB, "n_positions": 64,
        "scale_attn_by_inverse_layer_idx": True}),
    "gpt_neox, one after the other": ("gpt_neox", {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": VOCAB, "use_parallel_residual": False,
        "rotary_pct": 0.5}),
    "gpt_oss, clamped": ("gpt_oss", {
        **BASE, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2,
        "sliding_window": 6, "swiglu_limit": 0.5}),
    "granite, biases": ("granite", {
        **BASE, "attention_bias": True, "mlp_bias": True, "attention_multiplier": 0.2,
        "residual_multiplier": 0.5, "embedding_multiplier": 3.0, "logits_scaling": 2.0}),
    "llama, wide heads, biases": ("llama", {
        **BASE, "head_dim": 24, "attention_bias": True, "mlp_bias": True}),
    "llama4, chunks": ("llama4_text", {
        **BASE, "head_dim": 16, "intermediate_size_mlp": 80, "num_local_experts": 4,
        "num_experts_per_tok": 1, "attention_chunk_size": 7, "floor_scale": 4,
        "interleave_moe_layer_step": 2}),
    "ministral": ("ministral", {**BASE, "head_dim": 16, "sliding_window": 6}),
    "mixtral, window": ("mixtral", {
        **BASE, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6}),
    "mpt, six heads": ("mpt", {
        "d_model": 72, "n_heads": 6, "n_layers": 2, "vocab_size": VOCAB, "max_seq_len": 64}),
    "olmo2, shared keys": ("olmo2", BASE),
    "phi3, window": ("phi3", {**BASE, "sliding_window": 5}),
    "qwen2, some layers slide": ("qwen2", {**BASE, **SLIDING, "max_window_layers": 2}),
    "qwen2_moe, mixed": ("qwen2_moe", {
        **BASE, **SLIDING, "max_window_layers": 3, "num_experts": 6, "num_experts_per_tok": 2,
        "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48,
        "mlp_only_layers": [1], "norm_topk_prob": True}),
    "qwen3, some layers slide": ("qwen3", {
        **BASE, **SLIDING, "head_dim": 32, "max_window_layers": 1}),
    "stablelm, side by side": ("stablelm", {
        **BASE, "use_parallel_residual": True, "qk_layernorm": True, "use_qkv_bias": True}),
}


def random_model(model_type, settings):
    config = AutoConfig.for_model(model_type, **settings)
    # The plain attention adds Falcon's ALiBi twice.
    attention = "sdpa" if model_type == "falcon" else "eager"
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).float().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            around = 1.0 if weight.dim() == 1 and name.endswith("weight") else 0.0
            weight.copy_(torch.rand_like(weight) * 0.5 - 0.25 + around)
    return model


def difference(binary, model, ids, folder):
    """The largest difference as a share of the largest logit, and the share of equal top tokens."""
    with torch.no_grad():
        theirs = model(ids).logits
    model.save_pretrained(folder / "model")
    save_file({"input_ids": ids.to(torch.int32)}, folder / "ids.safetensors")
    out = folder / "logits.safetensors"
    command = [binary, "logits", folder / "model", "--ids", folder / "ids.safetensors", "--out", out]
    subprocess.run(command, check=True, capture_output=True, text=True)
    ours = load_file(out)["logits"]
    off = (ours - theirs).abs().max() / theirs.abs().max()
    return off.item(), (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gptq", required=True, help="the gptq binary")
    args = parser.parse_args()
    torch.manual_seed(0)
    ids = torch.randint(3, VOCAB, (1, TOKENS))
    failed = False
    print(f"{'model':32}{'difference':>12}{'top-1':>9}")
    for name, (model_type, settings) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                model = random_model(model_type, settings)
                off, same = difference(args.gptq, model, ids, Path(folder))
            except subprocess.CalledProcessError as error:
                failed = True
                print(f"{name:32}  {error.stderr.strip()}")
                continue
        failed |= off > TOLERANCE
        print(f"{name:32}{off:12.2e}{same:9.2%}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
