"""Quantizes a dense model with GPTQModel on the CPU, from calibration ids in a file.

Gives the peer's checkpoint for the same model, samples and scheme, so that quality (`gptq eval`), time and memory can
be compared. Settings that are not named here are GPTQModel's own defaults. `/usr/bin/time -v` shows peak memory.

    python gptqmodel_quantize.py MODEL --ids ids.safetensors --out DIR [--bits 4 --group-size 128]
"""

import argparse
import os
import time

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch
from gptqmodel import GPTQModel, QuantizeConfig
from safetensors.torch import load_file


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a dense model")
    parser.add_argument("--ids", required=True, help="safetensors file with input_ids [samples, tokens]")
    parser.add_argument("--out", required=True, help="folder to write the checkpoint to")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=128, help="-1 for one group per row")
    parser.add_argument("--asym", action="store_true")
    parser.add_argument("--desc-act", action="store_true")
    parser.add_argument("--no-act-group-aware", action="store_true")
    parser.add_argument("--damp-percent", type=float, help="GPTQModel's default where not given")
    parser.add_argument("--batch-size", type=int, default=1, help="samples per forward pass")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], help="the model's type meanwhile")
    args = parser.parse_args()

    plain_order = args.desc_act or args.no_act_group_aware or args.group_size < 0
    settings = {"act_group_aware": False} if plain_order else {}
    if args.damp_percent is not None:
        settings["damp_percent"] = args.damp_percent
    config = QuantizeConfig(
        bits=args.bits, group_size=args.group_size, sym=not args.asym, desc_act=args.desc_act, **settings
    )
    ids = load_file(args.ids)["input_ids"].long()
    samples = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]

    dtype = {"dtype": getattr(torch, args.dtype)} if args.dtype else {}
    model = GPTQModel.load(args.model, config, device="cpu", **dtype)
    begin = time.perf_counter()
    model.quantize(samples, batch_size=args.batch_size)
    solved = time.perf_counter()
    model.save(args.out)
    saved = time.perf_counter()
    print(f"quantize {solved - begin:.1f} s, save {saved - solved:.1f} s")


if __name__ == "__main__":
    main()
