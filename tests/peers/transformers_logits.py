"""Logits of a quantized checkpoint as transformers loads and runs it on the CPU.

This is the path of `AutoModelForCausalLM.from_pretrained`, which reads `quantization_config` of config.json only. GPTQ
folders go through optimum and GPTQModel's kernels, and `dynamic` is ignored: a folder with modules left out by such a
rule does not load this way. AWQ folders go through GPTQModel's kernels too, compressed-tensors folders through the
package of that name. Float32, as in `gptqmodel_logits.py`, unless `--dtype` says otherwise.

    python transformers_logits.py MODEL --ids ids.safetensors --out logits.safetensors
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AwqConfig, CompressedTensorsConfig, GPTQConfig


def loading_choices(scheme, asymmetric):
    """The arguments with loading-time choices (the scheme comes from the folder), and the kernel to expect.

    An asymmetric compressed-tensors folder loads only if it is dequantized on the way: otherwise transformers 5.23 with
    compressed-tensors 0.20 expects zero points that are not packed.
    """
    method = scheme.get("quant_method")
    if method == "awq":
        return {"quantization_config": AwqConfig(backend="torch_awq")}, AwqTorchLinear
    if method == "compressed-tensors":
        # An explicit None would make transformers forget that the folder is quantized.
        return ({"quantization_config": CompressedTensorsConfig(dequantize=True)} if asymmetric else {}), torch.nn.Linear
    return {"quantization_config": GPTQConfig(bits=4, backend="gptq_torch")}, TorchLinear


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a GPTQ, AWQ or compressed-tensors checkpoint")
    parser.add_argument("--ids", required=True, help="safetensors file with input_ids [batch, tokens]")
    parser.add_argument("--out", required=True, help="safetensors file to write logits F32 [batch, tokens, vocab] to")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    args = parser.parse_args()

    dtype = getattr(torch, args.dtype)
    for kernel in (TorchLinear, AwqTorchLinear):
        if dtype not in kernel.SUPPORTS_DTYPES:
            kernel.SUPPORTS_DTYPES = [*kernel.SUPPORTS_DTYPES, dtype]
    scheme = json.loads((Path(args.model) / "config.json").read_text())["quantization_config"]
    groups = scheme.get("config_groups", {}).values()
    choice, kernel = loading_choices(scheme, any(not group["weights"]["symmetric"] for group in groups))
    model = AutoModelForCausalLM.from_pretrained(args.model, device_map="cpu", dtype=dtype, **choice)
    packed = [module for module in model.modules() if isinstance(module, kernel)]
    if not packed:
        raise SystemExit("transformers found no packed linear in this folder")
    for module in packed:
        if kernel is TorchLinear:
            module.to(dtype)  # scales stay float16 otherwise, and with them the dequantized weights
    with torch.inference_mode():
        logits = model(load_file(args.ids)["input_ids"].long(), use_cache=False).logits
    save_file({"logits": logits.float().contiguous()}, args.out)
    print(f"{len(packed)} linears as {kernel.__name__}, logits {list(logits.shape)}")


if __name__ == "__main__":
    main()
