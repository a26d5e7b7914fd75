"""Compares `gptq logits` on a quantized folder with independent readers of the same folder.

Draws seeded token ids from the model's vocabulary, has `gptq` and every peer compute logits from them, and prints one
line per peer. A peer that cannot apply (not installed, or known to ignore a setting of the folder) is skipped and says
so; one that fails on the folder counts as a failure.

    python compare.py --gptq target/release/gptq MODEL [--peers numpy,gptqmodel,transformers]

The exit code is 0 when every peer that ran agrees, 1 otherwise.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy_reader import Tensors, write_tensors

HERE = Path(__file__).resolve().parent
FLOAT32, FLOAT16, BFLOAT16 = 2e-4, 5e-3, 5e-2
# name: script and its arguments, packages it needs, tolerance as a share of the largest logit
PEERS = {
    "numpy": (["numpy_reader.py"], ["numpy"], FLOAT32),
    "gptqmodel": (["gptqmodel_logits.py"], ["gptqmodel"], FLOAT32),
    "transformers": (["transformers_logits.py"], ["gptqmodel", "optimum"], FLOAT32),
    "gptqmodel-f16": (["gptqmodel_logits.py", "--dtype", "float16"], ["gptqmodel"], FLOAT16),
    "gptqmodel-bf16": (["gptqmodel_logits.py", "--dtype", "bfloat16"], ["gptqmodel"], BFLOAT16),
}
# Layouts whose loaders round dequantized weights to float16, whatever they compute in afterwards.
HALF_WEIGHTS = ("awq", "compressed-tensors")
COLUMNS = ("peer", "max |diff|", "largest logit", "ratio", "top-1", "tolerance", "verdict")


def run(command, out, verbose):
    """Runs a command that writes `out`; returns its logits, or the last line it printed when it failed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if verbose or done.returncode:
        print(done.stdout, file=sys.stderr)
    if done.returncode == 0 and out.exists():
        return Tensors(out)["logits"], None
    return None, (done.stdout.strip().splitlines() or ["no output"])[-1]


def reason_to_skip(peer, needs, config):
    missing = [package for package in needs if importlib.util.find_spec(package) is None]
    if missing:
        return f"no {', '.join(missing)}"
    method = config.get("quantization_config", {}).get("quant_method")
    if peer.startswith("gptqmodel") and method == "compressed-tensors":
        return "GPTQModel does not read compressed-tensors"
    if peer == "transformers" and method == "compressed-tensors" and not importlib.util.find_spec("compressed_tensors"):
        return "no compressed_tensors"
    if peer == "transformers" and config.get("quantization_config", {}).get("dynamic"):
        return "transformers ignores `dynamic`"
    return None


def row(peer, tolerance, ours, theirs):
    """One line of the table, and whether the two agree."""
    if ours.shape != theirs.shape:
        return (peer, "", "", "", "", "", f"FAIL: shapes {list(ours.shape)} and {list(theirs.shape)}"), False
    difference, largest = np.abs(ours - theirs).max(), np.abs(theirs).max()
    same = (ours.argmax(-1) == theirs.argmax(-1)).mean()
    agrees = bool(difference <= tolerance * largest)  # false for NaN
    verdict = "ok" if agrees else "FAIL"
    numbers = f"{difference:.3e}", f"{largest:.4f}", f"{difference / largest:.2e}", f"{same:.2%}", f"{tolerance:g}"
    return (peer, *numbers, verdict), agrees


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder that `gptq quantize` wrote")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--gptq", help="the gptq binary")
    source.add_argument("--expected", type=Path, help="input_ids and logits in a safetensors file, not the binary")
    parser.add_argument("--peers", default="numpy,gptqmodel,transformers", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="show what the peers print")
    args = parser.parse_args()
    unknown = set(args.peers.split(",")) - set(PEERS)
    if unknown:
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")

    config = json.loads((args.model / "config.json").read_text())
    with tempfile.TemporaryDirectory() as scratch:
        ids = Path(scratch) / "ids.safetensors"
        if args.expected:
            expected = Tensors(args.expected)
            write_tensors(ids, {"input_ids": expected["input_ids"].astype(np.int32)})
            ours = expected["logits"]
        else:
            shape = (args.batch, args.tokens)
            drawn = np.random.default_rng(args.seed).integers(0, config["vocab_size"], shape, np.int32)
            write_tensors(ids, {"input_ids": drawn})
            out = Path(scratch) / "gptq.safetensors"
            command = [args.gptq, "logits", str(args.model), "--ids", str(ids), "--out", str(out)]
            ours, problem = run(command, out, args.verbose)
            if ours is None:
                sys.exit(f"gptq logits failed: {problem}")

        rows, agreed = [], True
        for peer in args.peers.split(","):
            script, needs, tolerance = PEERS[peer]
            reason = reason_to_skip(peer, needs, config)
            if reason:
                rows.append((peer, "", "", "", "", "", f"skipped: {reason}"))
                continue
            out = Path(scratch) / f"{peer}.safetensors"
            command = [sys.executable, str(HERE / script[0]), str(args.model), *script[1:]]
            theirs, problem = run([*command, "--ids", str(ids), "--out", str(out)], out, args.verbose)
            if theirs is None:
                rows.append((peer, "", "", "", "", "", f"FAIL: {problem}"))
                agreed = False
                continue
            if peer != "numpy" and config.get("quantization_config", {}).get("quant_method") in HALF_WEIGHTS:
                tolerance = max(tolerance, FLOAT16)
            line, agrees = row(peer, tolerance, ours, theirs)
            rows.append(line)
            agreed &= agrees

    widths = [max(len(line[index]) for line in [COLUMNS, *rows]) for index in range(len(COLUMNS))]
    for line in [COLUMNS, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(line, widths)]
        print("  ".join([line[0].ljust(widths[0]), *cells[1:-1], line[-1]]))
    sys.exit(0 if agreed else 1)


if __name__ == "__main__":
    main()
