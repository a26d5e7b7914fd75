"""Prefill and decode speed of `gptq bench decode`, llama-bench and GPTQModel on one machine, by turns.

All get a model of the same shape, a prompt of the same length and the same number of threads. Each turn is a whole
process, but tokens per second are the programs' own count, without loading. A side whose program is not given is left
out.

    PEER_ENV/bin/python decode.py --gptq target/release/gptq --model GPTQ_FOLDER
        [--llama-bench BIN --gguf FILE] [--gptqmodel gptq_torch_aten] [--repeat 3] [--json]
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from measure import by_turns, last_json, machine, python_env, run, summaries, table

WORKER = Path(__file__).resolve().parent / "gptqmodel_decode.py"


def ours(args):
    """`gptq bench decode`: its own count of both phases."""
    command = [args.gptq, "bench", "decode", args.model, "--prompt-tokens", args.prompt_tokens, "--tokens", args.tokens]
    numbers = run([*command, "--threads", args.threads, "--json"])
    found = json.loads(numbers.pop("output"))
    return {"prefill": found["prefill_tokens_per_second"], "decode": found["decode_tokens_per_second"], **numbers}


def llama_bench(args, binary, more):
    """llama-bench's averages over its repetitions, new tokens after as long a context as ours; it warms up by itself."""
    tests = {
        "prefill": ["-p", args.prompt_tokens, "-n", 0],
        "decode": ["-p", 0, "-n", args.tokens, "-d", args.prompt_tokens],
    }
    runs, speeds = [], {}
    for phase, test in tests.items():
        command = [binary, "-m", args.gguf, *test, "-t", args.threads, "-r", args.llama_repetitions, "-o", "json", *more]
        runs.append(run(command))
        speeds[phase] = json.loads(runs[-1].pop("output"))[0]["avg_ts"]
    both = {key: [numbers[key] for numbers in runs] for key in runs[0]}
    return {**speeds, **{key: sum(values) if key in ("wall", "cpu") else max(values) for key, values in both.items()}}


def gptqmodel(args, backend):
    command = [args.python, WORKER, args.model, "--backend", backend, "--dtype", args.dtype]
    command += ["--prompt-tokens", args.prompt_tokens, "--tokens", args.gptqmodel_tokens, "--threads", args.threads]
    with tempfile.TemporaryDirectory() as elsewhere:
        numbers = run(command, python_env(args.python, args.threads), elsewhere)
    found = last_json(numbers.pop("output"))
    return {"prefill": found["prefill"], "decode": found["decode"], **numbers}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gptq", type=Path, help="our binary, a release build")
    parser.add_argument("--model", type=Path, required=True, help="folder of a GPTQ checkpoint")
    parser.add_argument("--gguf", type=Path, help="the same model for llama-bench")
    parser.add_argument("--llama-bench", type=Path, action="append", default=[], help="repeatable")
    parser.add_argument("--llama-args", action="append", default=[], help='more for llama-bench, such as "-fa 1"; repeatable, each is a row')
    parser.add_argument("--gptqmodel", action="append", default=[], metavar="BACKEND", help="repeatable")
    parser.add_argument("--python", default=sys.executable, help="Python that has gptqmodel [this one]")
    parser.add_argument("--dtype", default="bfloat16", help="GPTQModel's type of activations")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--gptqmodel-tokens", type=int, default=32, help="fewer, where a backend is slow")
    parser.add_argument("--llama-repetitions", type=int, default=3, help="inside one run of llama-bench")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    args = parser.parse_args()
    # GPTQModel leaves logs where it is started, so it is started elsewhere.
    args.model, args.python = args.model.absolute(), Path(args.python).absolute()

    programs = {}
    if args.gptq:
        programs["ours"] = lambda: ours(args)
    for binary in args.llama_bench:
        for more in args.llama_args or [""]:
            name = f"{binary.name} {more}".strip()
            programs[name] = lambda binary=binary, more=more: llama_bench(args, binary, more.split())
    for backend in args.gptqmodel:
        programs[backend] = lambda backend=backend: gptqmodel(args, backend)
    if not programs:
        parser.error("give at least one of --gptq, --llama-bench and --gptqmodel")
    results = summaries(by_turns(programs, args.repeat))

    if args.json:
        settings = {key: value if isinstance(value, (int, str, list, type(None))) else str(value) for key, value in vars(args).items()}
        print(json.dumps({"machine": machine(), "settings": settings, "results": results}, indent=2, default=str))
        return
    print(f"{args.model.name}: prompt of {args.prompt_tokens}, {args.tokens} new tokens, {args.threads} threads")
    print(table(results))
    for name, result in results.items():
        if "ours" in results and name != "ours":
            ratios = {key: results["ours"][key]["median"] / result[key]["median"] for key in ("prefill", "decode")}
            print(f"ours / {name}: prefill {ratios['prefill']:.2f}, decode {ratios['decode']:.2f}")


if __name__ == "__main__":
    main()
