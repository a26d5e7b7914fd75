"""Logits of a GPTQ or AWQ checkpoint as GPTQModel loads and runs it on the CPU.

By default in float32. GPTQModel's plain torch kernel computes in whatever type it is given but its type list names only
float16 and bfloat16, so this script adds float32 to that list before loading: packed words, zero-point conversion and
dequantization are GPTQModel's own, and the comparison needs no allowance for half precision. `--dtype float16` or
`--dtype bfloat16` runs it the way its users do.

    python gptqmodel_logits.py MODEL --ids ids.safetensors --out logits.safetensors
"""

import argparse
import contextlib
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # compiling the kernel takes longer than one pass
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch
from gptqmodel import BACKEND, GPTQModel
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel


@contextlib.contextmanager
def with_tokenizer(folder):
    """The folder itself, or a linked copy with a made-up tokenizer where it has none: GPTQModel insists on one."""
    folder = Path(folder).resolve()
    if any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        yield str(folder)
        return
    with tempfile.TemporaryDirectory() as linked:
        for file in folder.iterdir():
            (Path(linked) / file.name).symlink_to(file)
        words = json.loads((folder / "config.json").read_text())["vocab_size"]
        vocabulary = {f"<{index}>": index for index in range(words)}
        Tokenizer(WordLevel(vocabulary, unk_token="<0>")).save(f"{linked}/tokenizer.json")
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<0>", "eos_token": "<0>"}
        (Path(linked) / "tokenizer_config.json").write_text(json.dumps(settings))
        yield linked


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a GPTQ or AWQ checkpoint")
    parser.add_argument("--ids", required=True, help="safetensors file with input_ids [batch, tokens]")
    parser.add_argument("--out", required=True, help="safetensors file to write logits F32 [batch, tokens, vocab] to")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    args = parser.parse_args()

    dtype = getattr(torch, args.dtype)
    scheme = json.loads((Path(args.model) / "config.json").read_text())["quantization_config"]
    awq = scheme.get("quant_method") == "awq"
    kernel, backend = (AwqTorchLinear, BACKEND.AWQ_TORCH) if awq else (TorchLinear, BACKEND.GPTQ_TORCH)
    if dtype not in kernel.SUPPORTS_DTYPES:
        kernel.SUPPORTS_DTYPES = [*kernel.SUPPORTS_DTYPES, dtype]
    with with_tokenizer(args.model) as folder:
        model = GPTQModel.load(folder, device="cpu", backend=backend, dtype=dtype).model
    packed = [module for module in model.modules() if isinstance(module, kernel)]
    if not packed:
        raise SystemExit("GPTQModel found no packed linear in this folder")
    held = {str(tensor.dtype) for tensor in [*model.parameters(), *(module.scales for module in packed)]}
    with torch.inference_mode():
        logits = model(load_file(args.ids)["input_ids"].long(), use_cache=False).logits
    save_file({"logits": logits.float().contiguous()}, args.out)
    print(f"{len(packed)} packed linears, weights and scales in {', '.join(sorted(held))}, logits {list(logits.shape)}")


if __name__ == "__main__":
    main()
