"""The paper's algorithm in plain torch, timed: what `cargo bench --bench solver` is measured against.

    python benches/peers/column_loop.py [--rows 4096] [--columns 4096] [--threads 2] [--repeat 3]

One linear, 4 bits, symmetric, groups of 128, blocks of 128, in float32 on the CPU: Algorithm 1 of
Frantar et al. 2022 column by column, written down from the paper. Prints the seconds of the
factorisation (Cholesky, inverse, Cholesky) and of the column loop alone, and the rate of a product
of 2048 x 2048 matrices in the same run.
"""

import argparse
import time

import torch


def inverse_factor(hessian):
    """The upper factor of the damped inverse."""
    damped = hessian.clone()
    damped.diagonal().add_(0.01 * hessian.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)


def column_loop(weights, upper, bits=4, group=128, block=128):
    """Rounds every column and lets those behind make up for it. Returns the rounded weights."""
    weights = weights.clone()
    rounded = torch.zeros_like(weights)
    levels = 2**bits - 1
    middle = (levels + 1) / 2
    columns = weights.shape[1]
    for start in range(0, columns, block):
        end = min(start + block, columns)
        current = weights[:, start:end].clone()
        errors = torch.zeros_like(current)
        u = upper[start:end, start:end]
        for i in range(end - start):
            if (start + i) % group == 0:
                members = weights[:, start + i : start + i + group]
                reach = members.abs().amax(dim=1)
                scale = torch.where(reach == 0, 1.0, reach) * 2 / levels
            w = current[:, i]
            q = scale * (torch.clamp(torch.round(w / scale) + middle, 0, levels) - middle)
            rounded[:, start + i] = q
            errors[:, i] = (w - q) / u[i, i]
            current[:, i:] -= errors[:, i : i + 1].matmul(u[i : i + 1, i:])
        weights[:, end:] -= errors.matmul(upper[start:end, end:])
    return rounded


def seconds(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    inputs = torch.randn(2 * args.columns, args.columns)
    weights = torch.randn(args.rows, args.columns)
    hessian = inputs.T.matmul(inputs).mul_(2 / len(inputs))
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    for _ in range(args.repeat):
        product, _ = seconds(lambda: a.matmul(b))
        factor, upper = seconds(lambda: inverse_factor(hessian))
        loop, _ = seconds(lambda: column_loop(weights, upper))
        rate = 2 * 2048**3 / product / 1e9
        print(f"product {rate:6.1f} GFLOP/s   factor {factor:6.3f} s   column loop {loop:6.3f} s", flush=True)


if __name__ == "__main__":
    main()
