"""Opens a folder in AWQ or compressed-tensors layout with the packages that define these layouts, weight by weight.

For every packed module, the weights that the public package makes of it are compared with those that `numpy_packed.py`
reads by the format's description; then the package packs its own result again, and the words must be those of the
folder, bit for bit. compressed-tensors folders are opened with the package of that name, AWQ folders with GPTQModel.

    python open_packed.py MODEL

The exit code is 0 when everything agrees. Logits of the same folder: `compare.py --peers numpy,transformers`.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import numpy_packed
import torch
from numpy_reader import Tensors
from safetensors.torch import load_file

COMPRESSED = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")


def load(folder):
    stored = {}
    for file in sorted(folder.glob("model*.safetensors")):
        stored |= load_file(file)
    return stored


def open_compressed(stored, scheme, module):
    """The weight as compressed-tensors decompresses it in float32, and the tensors it makes of that again."""
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationScheme

    weights = numpy_packed.weights_of(scheme, module)
    args = QuantizationScheme(targets=["Linear"], weights=weights)
    held = {name: stored[f"{module}.{name}"] for name in COMPRESSED if f"{module}.{name}" in stored}
    opened = PackedQuantizationCompressor.decompress(held | {"weight_scale": held["weight_scale"].float()}, args)
    packed = PackedQuantizationCompressor.compress(dict(opened), args)
    again = {name: tensor for name, tensor in packed.items() if name in held and name != "weight_scale"}
    return opened["weight"], again, held


def open_awq(stored, scheme, module):
    """The weight as GPTQModel dequantizes it in float32, and the words it makes of its codes again."""
    from gptqmodel.quantization.awq.utils.packing_utils import pack_awq, reverse_awq_order, unpack_awq

    held = {name: stored[f"{module}.{name}"] for name in ("qweight", "qzeros", "scales")}
    codes, zeros = unpack_awq(held["qweight"], held["qzeros"], 4)
    codes, zeros = (part & 15 for part in reverse_awq_order(codes, zeros, 4))
    group = torch.arange(len(codes)) // (len(codes) // len(zeros))
    weight = held["scales"].float()[group] * (codes - zeros[group])
    qweight, qzeros = pack_awq(codes, zeros, 4)
    return weight.T, {"qweight": qweight, "qzeros": qzeros}, held


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of an AWQ or compressed-tensors checkpoint")
    folder = parser.parse_args().model
    config = json.loads((folder / "config.json").read_text())
    scheme, tensors, stored = config["quantization_config"], Tensors(folder), load(folder)
    awq = scheme["quant_method"] == "awq"
    codes, opened = (".qweight", open_awq) if awq else (".weight_packed", open_compressed)

    modules = sorted(name.removesuffix(codes) for name in stored if name.endswith(codes))
    largest, differing = 0.0, []
    for module in modules:
        theirs, again, held = opened(stored, scheme, module)
        ours = numpy_packed.dequantize(tensors, config, module)
        largest = max(largest, float(np.abs(ours - theirs.numpy()).max()))
        differing += [f"{module}.{name}" for name, tensor in again.items() if not torch.equal(tensor, held[name])]
    print(f"{len(modules)} modules; largest difference of a weight {largest:.1e}; {len(differing)} tensors repacked otherwise")
    for name in differing[:5]:
        print(f"  {name}")
    sys.exit(0 if modules and largest == 0 and not differing else 1)


if __name__ == "__main__":
    main()
