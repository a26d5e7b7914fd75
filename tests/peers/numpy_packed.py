"""Dequantizes the packed layouts beside GPTQ's own with numpy alone: AWQ, Marlin and compressed-tensors.

Written from the descriptions of the formats; nothing is shared with the Rust code or with the packages that write them.
Every function takes the tensors of a checkpoint and a module's name and returns the weight [out, in] in float32.
"""

import math
import re

import numpy as np

# Output 8 j + AWQ_ORDER[n] is nibble n of word j.
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def stream(words, bits, count):
    """Codes [rows, count] from 32-bit words [rows, n]: code i is bits i*bits.. of the row, lowest bit first."""
    flat = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")
    fields = flat[:, : count * bits].reshape(len(words), count, bits)
    return fields @ (1 << np.arange(bits, dtype=np.int32))


def awq(tensors, scheme, module):
    def codes(name):
        nibbles = stream(tensors[f"{module}.{name}"].view(np.uint32), 4, tensors[f"{module}.{name}"].shape[1] * 8)
        natural = np.empty_like(nibbles).reshape(len(nibbles), -1, 8)
        natural[:, :, AWQ_ORDER] = nibbles.reshape(len(nibbles), -1, 8)
        return natural.reshape(len(nibbles), -1)

    weight, zeros = codes("qweight"), codes("qzeros")
    scales = tensors[module + ".scales"].astype(np.float32)
    group = np.arange(len(weight)) // (len(weight) // len(scales))
    return np.ascontiguousarray((scales[group] * (weight - zeros[group])).T)


def marlin(tensors, scheme, module):
    words, stored = tensors[module + ".B"].view(np.uint32), tensors[module + ".s"].astype(np.float32)
    tile_rows, outputs = len(words), words.shape[1] // 2
    order = []
    for thread in range(32):
        rows = [2 * (thread % 4) + row for row in (0, 1, 8, 9)]
        eight = [16 * row + thread // 4 + 8 * block for block in (0, 1) for row in rows]
        order += [[place + 256 * warp for place in eight] for warp in range(4)]
    order = np.array(order)[:, AWQ_ORDER].reshape(-1)  # the same interleaving of eight
    gathered = stream(words, 4, outputs * 16).reshape(tile_rows, -1, 1024)
    tiles = np.empty_like(gathered)
    tiles[:, :, order] = gathered
    codes = tiles.reshape(tile_rows, outputs // 16, 16, 16).transpose(0, 2, 1, 3).reshape(tile_rows * 16, outputs)
    if len(stored) > 1:
        order = [i + 8 * j for i in range(8) for j in range(8)]
    else:
        order = [2 * i + j for i in range(4) for j in (0, 1, 8, 9, 16, 17, 24, 25)]
    scales = np.empty_like(stored).reshape(-1, len(order))
    scales[:, order] = stored.reshape(-1, len(order))
    scales = scales.reshape(stored.shape)
    group = np.arange(len(codes)) // (len(codes) // len(scales))
    return np.ascontiguousarray((scales[group] * (codes - 8)).T)


def weights_of(config, module):
    """The `weights` object of the group that a module belongs to: by its name, by an expression, or as a Linear."""

    def matches(target):
        return re.match(target[3:], module) if target.startswith("re:") else target == module

    if any(matches(target) for target in config.get("ignore") or []):
        return None
    targets = [(target, group) for group in config["config_groups"].values() for target in group["targets"]]
    targets.sort(key=lambda pair: ("re:" in pair[0], pair[0]))
    named = [group for target, group in targets if matches(target)]
    rest = [group for target, group in targets if target == "Linear"]
    return (named + rest or [{"weights": None}])[0]["weights"]


def compressed_tensors(tensors, scheme, module):
    weights = weights_of(scheme, module)
    if weights is None:
        raise ValueError(f"{module}: packed, but no group of the config targets it")
    bits = weights["num_bits"]
    outputs, inputs = (int(dim) for dim in tensors[module + ".weight_shape"])
    scales = tensors[module + ".weight_scale"].astype(np.float32)
    groups = scales.shape[1]
    codes = stream(tensors[module + ".weight_packed"].view(np.uint32), bits, inputs)
    if weights["symmetric"]:
        zeros = np.full((outputs, groups), 1 << (bits - 1))
    else:
        zeros = stream(tensors[module + ".weight_zero_point"].view(np.uint32).T, bits, outputs).T
    if module + ".weight_g_idx" in tensors:
        group = tensors[module + ".weight_g_idx"].astype(np.int64)
    else:
        group = np.arange(inputs) // (weights["group_size"] if weights["strategy"] == "group" else inputs)
    if groups != math.ceil(inputs / (weights["group_size"] or inputs)):
        raise ValueError(f"{module}: {groups} groups cannot be {inputs} inputs in groups of {weights['group_size']}")
    return (scales[:, group] * (codes - zeros[:, group])).astype(np.float32)


def dequantize(tensors, config, module):
    """The weight of a module packed in one of these layouts, or None if it is packed in none of them."""
    scheme = config.get("quantization_config", {})
    if module + ".weight_packed" in tensors:
        return compressed_tensors(tensors, scheme, module)
    if module + ".B" in tensors:
        return marlin(tensors, scheme, module)
    if module + ".qweight" in tensors and scheme.get("quant_method") == "awq":
        return awq(tensors, scheme, module)
    return None
