"""Builds llama-bench and llama-quantize from llama-cpp-python's source package, which brings llama.cpp along.

Built for this machine as it is (`GGML_NATIVE`). Where the processor has AMX, `llama-bench-noamx` is a second way to
start the same program, with AMX refused to it, to see which is faster. Needs a C++ compiler; cmake and ninja are taken
from pip. About ten minutes on two idle cores.

    python install_llama.py FOLDER [--version 0.3.36] [--jobs 2]
"""

import argparse
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

# Nothing that needs a network, a server or shared libraries next to the binary.
SETTINGS = [
    "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_TOOLS=ON", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_OPENSSL=OFF", "-DGGML_CCACHE=OFF",
]  # fmt: skip

# GCC 12.2 believes that `_tile_loadconfig` reads 8 bytes of the 64 it is given, and drops the stores of
# the rest; what AMX then finds on the stack stops the program. Naming the whole structure is right for every compiler.
TILE_CONFIG = ("_tile_loadconfig(&tc);", '__asm__ volatile("ldtilecfg %0" :: "m"(tc));')


def run(*command):
    print("+", *map(str, command), flush=True)
    subprocess.run([str(part) for part in command], check=True)


def source(folder: Path, version: str) -> Path:
    """llama.cpp's tree inside the unpacked package, fetched if it is not there."""
    root = folder / f"llama_cpp_python-{version}"
    if not root.is_dir():
        name = f"llama-cpp-python=={version}"
        run(sys.executable, "-m", "pip", "download", "--no-binary", "llama-cpp-python", "--no-deps", "-d", folder, name)
        with tarfile.open(folder / f"llama_cpp_python-{version}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    tree = root / "vendor" / "llama.cpp"
    tiles = tree / "ggml" / "src" / "ggml-cpu" / "amx" / "mmq.cpp"
    text = tiles.read_text()
    if TILE_CONFIG[0] in text:
        tiles.write_text(text.replace(*TILE_CONFIG))
    return tree


def without_amx(folder: Path):
    """A start script that has Linux's grant of AMX to a process fail, upon which llama.cpp does without."""
    library = folder / "noamx.so"
    run("cc", "-O1", "-shared", "-fPIC", "-o", library, Path(__file__).resolve().parent / "noamx.c", "-ldl")
    script = folder / "llama-bench-noamx"
    script.write_text(f'#!/bin/sh\nLD_PRELOAD={library} exec {folder / "llama-bench"} "$@"\n')
    script.chmod(0o755)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for the sources, the build and the two programs")
    parser.add_argument("--version", default="0.3.36", help="of llama-cpp-python")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)

    tools = folder / "tools"
    if not (tools / "bin" / "cmake").is_file():
        run(sys.executable, "-m", "venv", tools)
        run(tools / "bin" / "pip", "install", "--quiet", "cmake", "ninja")
    cmake, ninja = tools / "bin" / "cmake", tools / "bin" / "ninja"
    tree, build = source(folder, args.version), folder / "build"

    run(cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", "-S", tree, "-B", build, *SETTINGS)
    for target in ("llama-bench", "llama-quantize"):
        run(cmake, "--build", build, "--target", target, "-j", args.jobs)
        shutil.copy2(build / "bin" / target, folder / target)
    if "amx_int8" in Path("/proc/cpuinfo").read_text():
        without_amx(folder)
    print(*sorted(str(path) for path in folder.glob("llama-*") if path.is_file()), sep="\n")


if __name__ == "__main__":
    main()
