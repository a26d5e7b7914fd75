"""Draws calibration samples from a text the way the GPTQ authors' scripts do, so that two tools can share them.

The whole text is tokenized once; each sample is `seqlen` consecutive ids from a position that Python's generator,
seeded once, gives. Writes a safetensors file with `input_ids` I32 [nsamples, seqlen].

    python draw_ids.py MODEL --text FILE --out ids.safetensors [--nsamples 64 --seqlen 512 --seed 0]
"""

import argparse
import random
from pathlib import Path

import numpy as np
from numpy_reader import write_tensors
from tokenizers import Tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder with tokenizer.json")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--nsamples", type=int, default=64)
    parser.add_argument("--seqlen", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    ids = Tokenizer.from_file(str(args.model / "tokenizer.json")).encode(args.text.read_text(encoding="utf-8")).ids
    generator = random.Random(args.seed)
    starts = [generator.randint(0, len(ids) - args.seqlen - 1) for _ in range(args.nsamples)]
    samples = np.array([ids[start : start + args.seqlen] for start in starts], np.int32)
    write_tensors(args.out, {"input_ids": samples})
    print(f"{len(ids)} ids in the text; first samples start at {starts[:3]}")


if __name__ == "__main__":
    main()
