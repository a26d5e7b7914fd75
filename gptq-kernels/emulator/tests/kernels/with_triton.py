"""Writes triton_*.ptx, beside this file: products as Triton compiles them.

    python3 with_triton.py

Triton's code runs on the devices it is for, so what it says of descriptors, swizzles and fragments
checks the emulator's own reading. Made with triton==3.9.0; no GPU is needed.
"""

import pathlib
import re

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

HERE = pathlib.Path(__file__).resolve().parent


# y (M x N) = w (M x K) x^T (N x K), K in steps of STEP.
@triton.jit
def product(x, w, y, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, STEP: tl.constexpr):
    m = tl.arange(0, M)
    n = tl.arange(0, N)
    sums = tl.zeros((M, N), tl.float32)
    for start in range(0, K, STEP):
        k = start + tl.arange(0, STEP)
        left = tl.load(w + m[:, None] * K + k[None, :])
        right = tl.load(x + n[None, :] * K + k[:, None])
        sums = tl.dot(left, right, sums)
    tl.store(y + m[:, None] * N + n[None, :], sums)


# As above, with w in bytes: what registers convert goes to the product from registers.
@triton.jit
def coded(x, w, y, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, STEP: tl.constexpr):
    m = tl.arange(0, M)
    n = tl.arange(0, N)
    sums = tl.zeros((M, N), tl.float32)
    for start in range(0, K, STEP):
        k = start + tl.arange(0, STEP)
        left = tl.load(w + m[:, None] * K + k[None, :]).to(x.dtype.element_ty)
        right = tl.load(x + n[None, :] * K + k[:, None])
        sums = tl.dot(left, right, sums)
    tl.store(y + m[:, None] * N + n[None, :], sums)


def bare(ptx):
    """Without what is for debuggers, and without the paths in it."""
    ptx = re.split(r"\n\s*(?:\.file|\.section)\s", ptx)[0]
    ptx = re.sub(r"\n\s*\.loc[^\n]*|\n\s*//[^\n]*|\n\$L__(?:tmp|func)\w*:", "", "\n" + ptx)
    ptx = re.sub(r"[ \t]*//[^\n]*", "", ptx)
    return "// Made by with_triton.py.\n" + re.sub(r"\n\s*\n+", "\n", ptx).strip() + "\n"


def build(name, kernel, weights, inputs, m, n, k, step, stages, warps=4, capability=90):
    sizes = {"M": m, "N": n, "K": k, "STEP": step}
    pointers = {"x": f"*{inputs}", "w": f"*{weights}", "y": "*fp32"}
    aligned = {(at,): [["tt.divisibility", 16]] for at in range(3)}
    source = ASTSource(kernel, pointers | dict.fromkeys(sizes, "constexpr"), sizes, aligned)
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options=options)
    (HERE / f"triton_{name}.ptx").write_text(bare(compiled.asm["ptx"]))
    print(f"{name}: {compiled.metadata.shared} bytes of shared memory, {32 * warps} threads")


build("plain_f16", product, "fp16", "fp16", 64, 32, 128, 64, 1)
build("rows_of_64", product, "fp16", "fp16", 64, 32, 128, 32, 1)
build("rows_of_32", product, "fp16", "fp16", 64, 32, 64, 16, 1)
build("stages_bf16", product, "bf16", "bf16", 64, 64, 256, 64, 3)
build("stages_of_64", product, "fp16", "fp16", 64, 32, 160, 32, 3)
build("stages_of_32", product, "fp16", "fp16", 64, 32, 80, 16, 3)
build("registers", coded, "i8", "fp16", 64, 64, 256, 64, 3)
build("registers_bf16", coded, "i8", "bf16", 64, 16, 128, 64, 1)
build("two_groups", product, "fp16", "fp16", 128, 32, 256, 64, 3, warps=8)
build("wide", product, "bf16", "bf16", 64, 256, 64, 64, 1)
build("mma", product, "fp16", "fp16", 32, 32, 256, 64, 3, capability=80)
