"""Logits of a GPTQ checkpoint as transformers loads and runs it on the CPU (through optimum and GPTQModel's kernels).

This is the path of `AutoModelForCausalLM.from_pretrained`, which reads `quantization_config` of config.json only and
ignores `dynamic`: a folder with modules left out by such a rule does not load this way. Float32, as in
`gptqmodel_logits.py`, unless `--dtype` says otherwise.

    python transformers_logits.py MODEL --ids ids.safetensors --out logits.safetensors
"""

import argparse
import os

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPTQConfig


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a GPTQ checkpoint")
    parser.add_argument("--ids", required=True, help="safetensors file with input_ids [batch, tokens]")
    parser.add_argument("--out", required=True, help="safetensors file to write logits F32 [batch, tokens, vocab] to")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    args = parser.parse_args()

    dtype = getattr(torch, args.dtype)
    if dtype not in TorchLinear.SUPPORTS_DTYPES:
        TorchLinear.SUPPORTS_DTYPES = [*TorchLinear.SUPPORTS_DTYPES, dtype]
    # Only loading-time choices are taken from this object; the scheme comes from the folder.
    choice = GPTQConfig(bits=4, backend="gptq_torch")
    model = AutoModelForCausalLM.from_pretrained(args.model, device_map="cpu", dtype=dtype, quantization_config=choice)
    packed = [module for module in model.modules() if isinstance(module, TorchLinear)]
    if not packed:
        raise SystemExit("transformers found no packed linear in this folder")
    for module in packed:
        module.to(dtype)  # scales stay float16 otherwise, and with them the dequantized weights
    with torch.inference_mode():
        logits = model(load_file(args.ids)["input_ids"].long(), use_cache=False).logits
    save_file({"logits": logits.float().contiguous()}, args.out)
    print(f"{len(packed)} packed linears, scales in {packed[0].scales.dtype}, logits {list(logits.shape)}")


if __name__ == "__main__":
    main()
