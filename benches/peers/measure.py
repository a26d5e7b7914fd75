"""Running programs by turns and measuring them: what the scripts of this folder share.

This module stays small in memory on purpose: Linux counts what a process held before it became another program
towards that program's peak.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MIB = 1 << 20


def processor_times() -> list[int]:
    """Clock ticks of the whole machine since boot: user, nice, system, idle, iowait, irq, softirq, steal."""
    return [int(ticks) for ticks in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]


def run(command: list[str], env: dict[str, str] | None = None, cwd: Path | str | None = None) -> dict:
    """Runs a program to its end. Seconds by the clock and of processors, peak MiB, and its `output` as text.

    `steal` is the share of the machine's processor time that its host gave to others meanwhile, and `others` the share
    that programs other than this one took: where either is more than a few percent the time means little.
    """
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        before, begin = processor_times(), time.perf_counter()
        child = subprocess.Popen(
            [str(part) for part in command], env={**os.environ, **(env or {})}, cwd=cwd, stdout=stdout, stderr=stderr
        )
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - begin
        spent = [now - then for now, then in zip(processor_times(), before)]
        child.returncode = os.waitstatus_to_exitcode(status)
        for stream in (stdout, stderr):
            stream.seek(0)
        output = stdout.read().decode(errors="replace")
        if child.returncode != 0:
            log = (output + stderr.read().decode(errors="replace")).strip().splitlines()[-15:]
            raise SystemExit("\n".join([f"exit code {child.returncode}: {' '.join(map(str, command))}", *log]))
    cpu = usage.ru_utime + usage.ru_stime
    total = max(sum(spent), 1)
    busy = (total - spent[3] - spent[4] - spent[7]) / os.sysconf("SC_CLK_TCK")
    return {
        "wall": wall,
        "cpu": cpu,
        "peak": usage.ru_maxrss * 1024 / MIB,
        "steal": spent[7] / total,
        "others": max(busy - cpu, 0.0) * os.sysconf("SC_CLK_TCK") / total,
        "output": output,
    }


def python_env(python: str, threads: int) -> dict[str, str]:
    """For a script of a virtual environment: its number of threads, and its programs on the path.

    GPTQModel compiles kernels with the `ninja` beside its Python, and runs slower ones where it finds none.
    """
    count = str(threads)
    path = f"{Path(python).absolute().parent}:{os.environ.get('PATH', '')}"
    return {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "GPTQMODEL_CPU_WORKERS": count, "PATH": path}


def last_json(output: str) -> dict:
    """The JSON object on the last line that holds one; programs may print other lines before it."""
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    return json.loads(output)


def by_turns(programs: dict, repetitions: int, warmup: int = 0) -> dict[str, list[dict]]:
    """Calls every function once, then every one again, and so on, so that a slow minute of the machine hits all alike.

    Each returns a dictionary of numbers; those of the first `warmup` rounds are dropped.
    """
    measured = {name: [] for name in programs}
    for turn in range(warmup + repetitions):
        for name, program in programs.items():
            numbers = program()
            shown = "  ".join(f"{key} {value:.4g}" for key, value in numbers.items())
            kind = "warm-up" if turn < warmup else f"run {turn - warmup + 1}"
            print(f"{kind}, {name}: {shown}", file=sys.stderr, flush=True)
            if turn >= warmup:
                measured[name].append(numbers)
    return measured


def summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summaries(measured: dict[str, list[dict]]) -> dict[str, dict]:
    return {
        name: {key: summary([one[key] for one in runs]) for key in runs[0]} for name, runs in measured.items() if runs
    }


# Key of a measurement: heading, and how a value is written.
COLUMNS = {
    "prefill": ("prefill tok/s", lambda x: f"{x:.1f}"),
    "decode": ("decode tok/s", lambda x: f"{x:.2f}"),
    "wall": ("wall s", lambda x: f"{x:.2f}"),
    "cpu": ("user+sys s", lambda x: f"{x:.2f}"),
    "peak": ("peak MiB", lambda x: f"{x:.0f}"),
    "steal": ("steal", lambda x: f"{x:.0%}"),
    "others": ("others", lambda x: f"{x:.0%}"),
}


def table(results: dict[str, dict]) -> str:
    """One line per program: median (least to most) of everything measured."""
    keys = [key for key in COLUMNS if any(key in result for result in results.values())]
    rows = [["", *(COLUMNS[key][0] for key in keys)]]
    for name, result in results.items():
        row = [name]
        for key in keys:
            write = COLUMNS[key][1]
            spread = result.get(key)
            one = spread and f"{write(spread['median'])} ({write(spread['min'])} to {write(spread['max'])})"
            row.append(one or "-")
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)
    return "\n".join(lines)


def machine() -> dict:
    """What the figures were taken on."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), "unknown")
    return {"processor": model, "cores": os.cpu_count(), "load": os.getloadavg()[0]}


def tensors(folder: Path) -> dict[str, dict]:
    """Names, types and shapes of the tensors in a folder's safetensors files, from their headers."""
    out = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        header.pop("__metadata__", None)
        out.update(header)
    return out
