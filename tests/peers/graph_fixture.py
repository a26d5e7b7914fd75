"""Adds a model to `tests/fixtures/graphs.json`: what transformers computes from weights made by formula.

The folder holds one file, a `config.json` of a small model. It is stored as it is, so a key that it leaves out proves the
default of its class. Tensors have the names that `save_pretrained` gives them, which are those of the Hugging Face hub.

    python graph_fixture.py FOLDER NAME
"""

import argparse
import json
import os
import tempfile
import zlib
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

GRAPHS = Path(__file__).parent.parent / "fixtures" / "graphs.json"
TOKENS = 24


def fill(name, shape):
    """The weights of a tensor from its name and shape, float32."""
    h = np.arange(np.prod(shape), dtype=np.uint32) * np.uint32(2654435761) + np.uint32(zlib.crc32(name.encode()))
    h ^= h >> np.uint32(15)
    h *= np.uint32(2246822519)
    h ^= h >> np.uint32(13)
    middle = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
    values = (h.astype(np.float64) / 2**32 - 0.5) * 0.5 + middle
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def entry(folder, ids):
    """What the fixture holds of one model."""
    config = AutoConfig.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as scratch:
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(scratch)
        weights = Path(scratch) / "model.safetensors"
        shapes = {name: list(tensor.shape) for name, tensor in sorted(load_file(weights).items())}
        save_file({name: fill(name, shape) for name, shape in shapes.items()}, weights, {"format": "pt"})
        model, loading = AutoModelForCausalLM.from_pretrained(
            scratch, config=config, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
    if loading["missing_keys"] or loading["unexpected_keys"]:
        raise SystemExit(f"transformers did not take its own tensors back: {loading}")
    with torch.inference_mode():
        logits = model.eval()(torch.tensor([ids]), use_cache=False).logits[0]
    return {
        "config": json.loads((Path(folder) / "config.json").read_text()),
        "tensors": shapes,
        "input_ids": ids,
        "argmax": logits.argmax(-1).tolist(),
        "sum_abs": float(logits.double().abs().sum()),
        "max_abs": float(logits.abs().max()),
        "last": [float(f"{logit:.7g}") for logit in logits[-1].tolist()],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="folder with the config.json of a small model")
    parser.add_argument("name", help="name in graphs.json; an entry of that name is computed anew, from its own tokens")
    args = parser.parse_args()

    graphs = json.loads(GRAPHS.read_text())
    vocabulary = AutoConfig.from_pretrained(args.folder).vocab_size
    drawn = np.random.default_rng(zlib.crc32(args.name.encode())).integers(0, vocabulary, TOKENS).tolist()
    ids = graphs.get(args.name, {}).get("input_ids", drawn)
    graphs[args.name] = made = entry(args.folder, ids)
    GRAPHS.write_text(json.dumps(graphs, separators=(",", ":")))
    print(f"{args.name}: {len(made['tensors'])} tensors, largest logit {made['max_abs']:.3f}")


if __name__ == "__main__":
    main()
