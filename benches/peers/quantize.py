"""Quantizes the same model from the same token ids with `gptq quantize` and with GPTQModel, by turns.

Whole commands, from start to the checkpoint on disk. Ids are random, drawn once from a seed over the model's
vocabulary. After every run the number of packed layers is compared, and that both saw the same ids.

    PEER_ENV/bin/python quantize.py MODEL --gptq target/release/gptq [--repeat 3] [--json]
"""

import argparse
import array
import hashlib
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

from measure import by_turns, machine, python_env, run, summaries, table, tensors

WORKER = Path(__file__).resolve().parents[2] / "tests" / "peers" / "gptqmodel_quantize.py"


def draw(vocab: int, nsamples: int, seqlen: int, seed: int) -> tuple[list[int], list[list[int]]]:
    """A stream of random ids, and the windows that `gptq quantize --seed SEED` takes from it."""
    generator = random.Random(f"stream {seed}")
    stream = [generator.randrange(vocab) for _ in range(2 * nsamples * seqlen)]
    starts = random.Random(seed)
    starts = [starts.randint(0, len(stream) - seqlen - 1) for _ in range(nsamples)]
    return stream, [stream[start : start + seqlen] for start in starts]


def write_ids(path: Path, windows: list[list[int]]):
    """A safetensors file with `input_ids` I32 [nsamples, seqlen]."""
    data = b"".join(array.array("i", window).tobytes() for window in windows)
    shape = [len(windows), len(windows[0])]
    header = json.dumps({"input_ids": {"dtype": "I32", "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def ids_sha256(windows: list[list[int]]) -> str:
    """As in `gptq_report.json`: of every window its length, then its ids, in 32-bit little-endian words."""
    words = (array.array("I", [len(window), *window]) for window in windows)
    return hashlib.sha256(b"".join(part.tobytes() for part in words)).hexdigest()


def packed_layers(folder: Path) -> int:
    return sum(name.endswith(".qweight") for name in tensors(folder))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of a dense model with tokenizer.json")
    parser.add_argument("--gptq", type=Path, required=True, help="our binary, a release build")
    parser.add_argument("--python", default=sys.executable, help="Python that has gptqmodel [this one]")
    parser.add_argument("--nsamples", type=int, default=64)
    parser.add_argument("--seqlen", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8, help="samples per forward pass of GPTQModel")
    parser.add_argument("--dtype", help="GPTQModel's type for the model meanwhile [its own choice]")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1, help="rounds not counted; GPTQModel compiles in its first")
    parser.add_argument("--only", choices=["ours", "gptqmodel"], help="measure one side")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    args = parser.parse_args()
    # GPTQModel leaves logs where it is started, so it is started elsewhere.
    args.model, args.python = args.model.absolute(), Path(args.python).absolute()

    vocab = json.loads((args.model / "config.json").read_text())["vocab_size"]
    stream, windows = draw(vocab, args.nsamples, args.seqlen, args.seed)
    packed = {}
    with tempfile.TemporaryDirectory(prefix="gptq-bench-") as work:
        work = Path(work)
        text, ids, out = work / "ids.jsonl", work / "ids.safetensors", work / "out"
        text.write_text(json.dumps({"input_ids": stream}) + "\n")
        write_ids(ids, windows)
        scheme = ["--bits", args.bits, "--group-size", args.group_size]
        ours = [args.gptq, "quantize", args.model, "--out", out, "--calib", text, *scheme]
        ours += ["--threads", args.threads, "--nsamples", args.nsamples, "--seqlen", args.seqlen, "--seed", args.seed]
        peer = [args.python, WORKER, args.model, "--ids", ids, "--out", out, *scheme, "--batch-size", args.batch_size]
        peer += ["--dtype", args.dtype] if args.dtype else []

        def measured(name, command, env, cwd=None):
            shutil.rmtree(out, ignore_errors=True)
            numbers = run(command, env, cwd)
            numbers.pop("output")
            packed[name] = packed_layers(out)
            if name == "ours":
                report = json.loads((out / "gptq_report.json").read_text())
                if ids_sha256(windows) not in json.dumps(report):
                    raise SystemExit("gptq quantize drew other windows than GPTQModel was given")
            return numbers

        programs = {
            "ours": lambda: measured("ours", ours, None),
            "gptqmodel": lambda: measured("gptqmodel", peer, python_env(args.python, args.threads), work),
        }
        if args.only:
            programs = {args.only: programs[args.only]}
        results = summaries(by_turns(programs, args.repeat, args.warmup))

    if len(set(packed.values())) > 1:
        raise SystemExit(f"not the same work: packed layers {packed}")
    ratios = {}
    if not args.only:
        ratios = {
            key: results["gptqmodel"][key]["median"] / results["ours"][key]["median"] for key in ("wall", "cpu", "peak")
        }
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    if args.json:
        everything = {"machine": machine(), "settings": settings, "packed_layers": packed}
        print(json.dumps({**everything, "results": results, "gptqmodel_over_ours": ratios}, indent=2))
        return
    print(f"{args.model.name}: {args.nsamples} x {args.seqlen} tokens, {args.bits} bits, groups of {args.group_size}, {packed} layers")
    print(table(results))
    if ratios:
        print("GPTQModel takes", ", ".join(f"{ratio:.2f} times the {key}" for key, ratio in ratios.items()))


if __name__ == "__main__":
    main()
