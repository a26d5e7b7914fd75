"""Reads a GPTQ checkpoint with numpy alone and computes LLaMA logits in float32.

An independent reading of the files: nothing here is shared with the Rust code or with any GPTQ library, so agreement
means that the bytes say what the format says. Covers 2, 3, 4 and 8 bits, any group size and group order (`g_idx`),
both zero-point conventions (`gptq` stores zero - 1, `gptq_v2` stores zero), per-module `dynamic` overrides, the layouts
of `numpy_packed.py`, sharded and dense folders, and the rotary variants default, linear, llama3 and yarn.

    python numpy_reader.py MODEL --ids ids.safetensors --out logits.safetensors
"""

import argparse
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import numpy_packed

PLAIN_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
# Adding 1 to every field of a word at once. Fields that hold zero - 1 never carry unless a zero point was 0.
ONES = {2: 0x55555555, 4: 0x11111111, 8: 0x01010101}


class Tensors:
    """The tensors of one safetensors file, or of a folder with one file or several, mapped and read on demand."""

    def __init__(self, path):
        path = Path(path)
        self.where = {}
        for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
            if path.is_dir() and not re.match(r"model|gptq_model", file.name):
                continue
            with open(file, "rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            data = np.memmap(file, np.uint8, "r", offset=8 + length)
            self.where |= {name: (data, entry) for name, entry in header.items()}

    def __contains__(self, name):
        return name in self.where

    def __getitem__(self, name):
        data, entry = self.where[name]
        begin, end = entry["data_offsets"]
        values = np.array(data[begin:end]).view(PLAIN_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        if entry["dtype"] == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values


def write_tensors(path, tensors):
    """Writes F32 and integer arrays as a safetensors file."""
    names = {np.dtype(kind): name for name, kind in PLAIN_DTYPES.items() if name != "BF16"}
    header, blobs, begin = {}, [], 0
    for name, array in tensors.items():
        blob = np.ascontiguousarray(array).tobytes()
        end = begin + len(blob)
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
        blobs.append(blob)
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


def unpack(words, bits, count):
    """Codes [rows, count] from 32-bit words [rows, n]: code i is bits i*bits.. of the row, lowest bit first."""
    stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")
    fields = stream[:, : count * bits].reshape(len(words), count, bits)
    return fields @ (1 << np.arange(bits, dtype=np.int32))


def scheme_of(config, module):
    """The quantization settings of one module: the checkpoint's, with the first matching `dynamic` rule on top.

    None when the rule says to leave the module alone. Rules that start with `-:` are looked at first, as by the
    library that invented them.
    """
    scheme = config["quantization_config"]
    rules = list((scheme.get("dynamic") or {}).items())
    for pattern, override in sorted(rules, key=lambda rule: not rule[0].startswith("-:")):
        if re.match(re.sub(r"^[-+]:", "", pattern), module):
            return None if pattern.startswith("-:") else scheme | override
    return scheme


def dequantize(tensors, config, module):
    """The weight [out, in] of a packed linear: scale of the input's group times (code - zero of that group)."""
    scheme = scheme_of(config, module)
    if scheme is None:
        raise ValueError(f"{module}: packed, but a dynamic rule says it is not quantized")
    bits, form = scheme["bits"], scheme.get("checkpoint_format", scheme.get("format", "gptq"))
    if bits not in (2, 3, 4, 8) or form not in ("gptq", "gptq_v2"):
        raise ValueError(f"{module}: {bits} bits in format {form} is not read here")
    qweight = tensors[module + ".qweight"].view(np.uint32)
    qzeros = tensors[module + ".qzeros"].view(np.uint32)
    scales = tensors[module + ".scales"].astype(np.float32)
    groups, outputs = scales.shape
    if module + ".g_idx" in tensors:
        group = tensors[module + ".g_idx"].astype(np.int64)
        group = np.where(group < 0, group + groups, group)
    else:
        inputs = len(qweight) * 32 // bits
        group = np.arange(inputs) // (scheme["group_size"] if scheme["group_size"] > 0 else inputs)
    inputs = len(group)
    for name, words, codes in (("qweight", qweight.shape[0], inputs), ("qzeros", qzeros.shape[1], outputs)):
        if words != math.ceil(codes * bits / 32):
            raise ValueError(f"{module}.{name}: {words} words along its packed axis cannot be {codes} x {bits} bits")

    zeros = unpack(qzeros, bits, outputs)
    if form == "gptq":
        if (zeros == 2**bits - 1).any():
            print(f"warning: {module}: a zero point of 0 in v1 form; readers disagree about it", file=sys.stderr)
        if bits == 3:
            zeros = (zeros + 1) & 7
        else:
            zeros = unpack(qzeros + np.uint32(ONES[bits]), bits, outputs)
    codes = unpack(qweight.T, bits, inputs).T
    return np.ascontiguousarray((scales[group] * (codes - zeros[group]).astype(np.float32)).T)


def rotary_tables(config, head_dim, length):
    """cos and sin [length, head_dim / 2] of the rotary embedding, scaling included."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    longest = config.get("max_position_embeddings", 2048)
    original = config.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings", longest)
    factor = rope.get("factor") or longest / original
    step = np.arange(head_dim // 2, dtype=np.float64)
    frequency = theta ** (-2 * step / head_dim)
    amplitude = 1.0

    if kind == "linear":
        frequency /= factor
    elif kind == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        turns = original * frequency / (2 * math.pi)
        kept = np.clip((turns - low) / (high - low), 0, 1)
        frequency *= kept + (1 - kept) / factor
    elif kind == "yarn":

        def pair_with(turns):
            return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

        def gain(weight=1.0):
            return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0

        first, last = pair_with(rope.get("beta_fast") or 32), pair_with(rope.get("beta_slow") or 1)
        if rope.get("truncate", True):
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, head_dim - 1)
        stretched = np.clip((step - first) / ((last - first) or 0.001), 0, 1)
        frequency *= 1 - stretched + stretched / factor
        amplitude = rope.get("attention_factor")
        if amplitude is None and rope.get("mscale") and rope.get("mscale_all_dim"):
            amplitude = gain(rope["mscale"]) / gain(rope["mscale_all_dim"])
        elif amplitude is None:
            amplitude = gain()
    elif kind != "default":
        raise ValueError(f"rotary type {kind} is not read here")

    angle = np.arange(length, dtype=np.float32)[:, None] * frequency.astype(np.float32)
    return np.cos(angle) * np.float32(amplitude), np.sin(angle) * np.float32(amplitude)


class Llama:
    """A LLaMA decoder over the tensors of a folder, float32 throughout; linears are unpacked when they are used."""

    def __init__(self, folder):
        self.config = json.loads((Path(folder) / "config.json").read_text())
        if self.config["model_type"] != "llama":
            raise ValueError(f"model type {self.config['model_type']} is not read here")
        self.tensors = Tensors(folder)
        self.packed = sum(name.endswith((".qweight", ".weight_packed", ".B")) for name in self.tensors.where)

    def plain(self, name):
        return self.tensors[name].astype(np.float32)

    def linear(self, x, module):
        weight = numpy_packed.dequantize(self.tensors, self.config, module)
        if weight is not None:
            pass
        elif module + ".qweight" in self.tensors:
            weight = dequantize(self.tensors, self.config, module)
        elif module + ".weight" in self.tensors:
            weight = self.plain(module + ".weight")
        elif module == "lm_head" and self.config.get("tie_word_embeddings"):
            weight = self.plain("model.embed_tokens.weight")
        else:
            raise ValueError(f"{module}: neither packed nor .weight")
        y = x @ weight.T
        return y + self.plain(module + ".bias") if module + ".bias" in self.tensors else y

    def norm(self, x, module):
        eps = self.config.get("rms_norm_eps", 1e-6)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(eps)) * self.plain(module + ".weight")

    def attention(self, x, module):
        batch, length, hidden = x.shape
        heads = self.config["num_attention_heads"]
        shared = heads // (self.config.get("num_key_value_heads") or heads)
        size = self.config.get("head_dim") or hidden // heads
        cos, sin = rotary_tables(self.config, size, length)

        def split(name):
            return self.linear(x, f"{module}.{name}").reshape(batch, length, -1, size).transpose(0, 2, 1, 3)

        def rotate(v):
            a, b = v[..., : size // 2], v[..., size // 2 :]
            return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

        query, key, value = rotate(split("q_proj")), rotate(split("k_proj")), split("v_proj")
        key, value = key.repeat(shared, 1), value.repeat(shared, 1)
        score = query @ key.swapaxes(-1, -2) * np.float32(size**-0.5)
        score = np.where(np.tri(length, dtype=bool), score, np.float32(-np.inf))
        score = np.exp(score - score.max(-1, keepdims=True))
        score /= score.sum(-1, keepdims=True)
        return self.linear((score @ value).transpose(0, 2, 1, 3).reshape(batch, length, -1), module + ".o_proj")

    def mlp(self, x, module):
        gate = self.linear(x, module + ".gate_proj")
        gate = gate / (1 + np.exp(-gate))
        return self.linear(gate * self.linear(x, module + ".up_proj"), module + ".down_proj")

    def logits(self, ids):
        h = self.plain("model.embed_tokens.weight")[ids]
        for index in range(self.config["num_hidden_layers"]):
            layer = f"model.layers.{index}."
            h = h + self.attention(self.norm(h, layer + "input_layernorm"), layer + "self_attn")
            h = h + self.mlp(self.norm(h, layer + "post_attention_layernorm"), layer + "mlp")
        return self.linear(self.norm(h, "model.norm"), "lm_head")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a GPTQ (or dense) LLaMA checkpoint")
    parser.add_argument("--ids", required=True, help="safetensors file with input_ids [batch, tokens]")
    parser.add_argument("--out", required=True, help="safetensors file to write logits F32 [batch, tokens, vocab] to")
    args = parser.parse_args()
    model = Llama(args.model)
    logits = model.logits(Tensors(args.ids)["input_ids"].astype(np.int64))
    write_tensors(args.out, {"logits": logits.astype(np.float32)})
    print(f"{model.packed} packed linears, logits {list(logits.shape)}")


if __name__ == "__main__":
    main()
