"""Compiles the kernels of this folder to PTX, those for Hopper alone to machine code too, and shows
what the assembler makes of it.

    python3 build.py            write ptx/*.ptx and cubin/*.cubin
    python3 build.py --check    fail if they are not what the sources give
    python3 build.py --assemble registers, shared memory and spills, for each architecture

The compiler comes from PyPI, into a folder of its own (--tools, by default beside the build
output): nothing else of the toolkit is needed, and no GPU.
"""

import argparse
import ctypes
import glob
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
# PTX 8.4: what drivers since 550 take. A later compiler shuts out drivers that are older than it.
PACKAGES = ["nvidia-cuda-nvrtc-cu12==12.4.127", "nvidia-cuda-nvcc-cu12==12.4.131"]
OPTIONS = ["--std=c++17", f"--include-path={HERE}"]


# Kernels of one step of generating text. From Hopper on they begin early.
STEP = "attention attention_step dense draw halves norm packed_matmul packed_matvec packed_sums pointwise rows".split()


def targets(source):
    """For each PTX of a source: what is added to its name, what it is compiled for, and what for it
    is assembled."""
    if "wgmma" in source.stem:
        return [("", "compute_90a", ["sm_90a"])]
    if re.sub(r"_\d+$", "", source.stem) in STEP:
        return [("", "compute_80", ["sm_80"]), ("_early", "compute_90", ["sm_90"])]
    return [("", "compute_80", ["sm_80", "sm_90"])]


def tools(folder):
    found = lambda name: next(iter(glob.glob(f"{folder}/**/{name}", recursive=True)), None)
    if not (found("libnvrtc.so.12") and found("ptxas")):
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder]
        subprocess.run(command + PACKAGES, check=True)
    return found("libnvrtc.so.12"), found("ptxas")


def compile_to_ptx(nvrtc, source, architecture):
    program = ctypes.c_void_p()
    name = source.name.encode()
    text = source.read_bytes()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, name, 0, None, None)
    options = [option.encode() for option in [f"--gpu-architecture={architecture}", *OPTIONS]]
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))

    def read(size_of, read_into):
        size = ctypes.c_size_t()
        size_of(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        read_into(program, buffer)
        return buffer.value.decode()

    log = read(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)
    if status != 0 or log.strip():
        sys.exit(f"{source.name}:\n{log}")
    return read(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)


def assemble(ptxas, ptx, architectures):
    """Rows of kernel, architecture, registers, shared bytes, spilled bytes."""
    rows = []
    for architecture in architectures:
        with tempfile.NamedTemporaryFile() as out:
            command = [ptxas, "-v", f"-arch={architecture}", str(ptx), "-o", out.name]
            log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
            # Warpgroup products that wait for each other, because the assembler could not keep them apart.
            if "serialized" in log:
                sys.exit(f"{ptx.name} for {architecture}:\n{log}")
        entry = r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores.*?Used (\d+) registers(.*?)\n"
        for name, frame, spilled, registers, rest in re.findall(entry, log, re.S):
            shared = re.search(r"(\d+) bytes smem", rest)
            rows.append((name, architecture, registers, shared[1] if shared else "0", spilled, frame))
    return rows


def machine_code(ptxas, ptx, architecture):
    with tempfile.TemporaryDirectory() as folder:
        text, code = (pathlib.Path(folder) / name for name in ("text.ptx", "code.cubin"))
        text.write_text(ptx)
        subprocess.run([ptxas, f"-arch={architecture}", str(text), "-o", str(code)], check=True)
        return code.read_bytes()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tools", default=str(pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[1] / "target")) / "cuda-tools"))
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--assemble", action="store_true")
    args = parser.parse_args()
    library, ptxas = tools(args.tools)
    nvrtc = ctypes.CDLL(library)
    failed = False
    every = [(source, *target) for source in sorted(HERE.glob("*.cu")) for target in targets(source)]
    for source, suffix, architecture, assembled in every:
        ptx = compile_to_ptx(nvrtc, source, architecture)
        made = {HERE / "ptx" / f"{source.stem}{suffix}.ptx": ptx.encode()}
        if architecture == "compute_90a":
            made[HERE / "cubin" / f"{source.stem}.cubin"] = machine_code(ptxas, ptx, *assembled)
        for target, contents in made.items():
            if not args.check:
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(contents)
            elif not target.exists() or target.read_bytes() != contents:
                print(f"{target.name} is not what {source.name} compiles to: run {pathlib.Path(__file__).name}")
                failed = True
        if args.assemble:
            for name, architecture, registers, shared, spilled, frame in assemble(ptxas, next(iter(made)), assembled):
                print(f"{name:40} {architecture:6} {registers:>4} registers {shared:>6} B shared {spilled:>4} B spilled {frame:>4} B stack")
                failed |= spilled != "0"
    sys.exit(failed)


if __name__ == "__main__":
    main()
