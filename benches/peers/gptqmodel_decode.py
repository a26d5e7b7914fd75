"""Prefill and decode speed of GPTQModel on the CPU, for one of its backends; prints one JSON object.

Greedy decoding with transformers' key-value cache, one token a step. Loading and a first round, in which kernels are
compiled, are not timed. Best of `--rounds` rounds, since one process is one sample of the outer script.

    python gptqmodel_decode.py MODEL --backend torch_aten [--prompt-tokens 512 --tokens 32]
"""

import argparse
import json
import os
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch
from gptqmodel import BACKEND, GPTQModel
from gptqmodel.nn_modules.qlinear import BaseQuantLinear


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a GPTQ checkpoint")
    parser.add_argument("--backend", required=True, help="gptq_torch, gptq_torch_fused, gptq_torch_aten, ...")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="bfloat16")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    backend = BACKEND(args.backend)
    model = GPTQModel.load(args.model, device="cpu", backend=backend, dtype=getattr(torch, args.dtype)).model
    kernels = sorted({type(module).__name__ for module in model.modules() if isinstance(module, BaseQuantLinear)})
    if not kernels:
        raise SystemExit("GPTQModel found no packed linear in this folder")
    vocab = model.config.vocab_size
    prompt = torch.randint(vocab, (1, args.prompt_tokens), generator=torch.Generator().manual_seed(0))

    def round_of(tokens):
        begin = time.perf_counter()
        out = model(input_ids=prompt, use_cache=True, logits_to_keep=1)
        prefilled = time.perf_counter()
        for _ in range(tokens):
            last = out.logits[:, -1:].argmax(-1)
            out = model(input_ids=last, past_key_values=out.past_key_values, use_cache=True)
        return prefilled - begin, time.perf_counter() - prefilled

    with torch.inference_mode():
        round_of(4)
        rounds = [round_of(args.tokens) for _ in range(args.rounds)]
    prefill, decode = (min(seconds) for seconds in zip(*rounds))
    found = {"prefill": args.prompt_tokens / prefill, "decode": args.tokens / decode, "kernels": kernels}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
