"""Precision, recall, density, coverage, Fréchet and kernel distance beside what people use: time, memory and agreement; published anchors.

    python benchmarks/manifold.py [--n 20000] [--d 512] [--big 50000] [--threads 2] [--pairs 1]

Each side runs in a process of its own, the two sides alternate, and both take the same float64 arrays. The peers: the package ``prdc``;
the Fréchet formula as pytorch-fid writes it (``numpy.cov``, ``scipy.linalg.sqrtm``); the kernel distance as a whole-matrix formula in torch.
Memory is the peak above what the process held when its data were ready. Targets: three times faster, or a third of the memory, and agreement to
1e-6; ``--big`` rows against as many in less than 2 GiB. The anchor is that of the README of ``prdc``: two samples of 10,000 rows of N(0, I) in
1,000 dimensions; expected coverage is 1 - C(n-1, k) / C(n+m-1, k) and expected density 1.
"""

import argparse
import contextlib
import io
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from manykin.metrics import frechet_distance, kernel_distance, prdc

PUBLISHED = {"precision": 0.477, "recall": 0.471, "density": 1.056, "coverage": 0.974}
ANCHOR = (10_000, 1000)
LIMIT = 2 * 2**30


def data(n: int, d: int, equal: bool) -> tuple[Tensor, Tensor]:
    """Two samples of correlated features, or of one standard normal law (the anchor)."""
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, d, generator=draw, dtype=torch.float64) for _ in range(2))
    if equal:
        return a, b
    mix = torch.eye(d, dtype=torch.float64) + 0.5 * torch.randn(d, d, generator=draw, dtype=torch.float64) / math.sqrt(d)
    return a @ mix, 0.98 * b @ mix + 0.02


def our_prdc(a: Tensor, b: Tensor) -> dict[str, float]:
    return {each.name: each.value for each in prdc(a, b)}


def peer_prdc(a: Tensor, b: Tensor) -> dict[str, float]:
    from prdc import compute_prdc

    with contextlib.redirect_stdout(io.StringIO()):
        return {name: float(value) for name, value in compute_prdc(a.numpy(), b.numpy(), 5).items()}


def our_frechet(a: Tensor, b: Tensor) -> dict[str, float]:
    return {"frechet": frechet_distance(a, b).value}


def peer_frechet(a: Tensor, b: Tensor) -> dict[str, float]:
    from scipy.linalg import sqrtm

    x, y = a.numpy(), b.numpy()
    shift, first, second = x.mean(0) - y.mean(0), np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return {"frechet": float(shift @ shift + np.trace(first) + np.trace(second) - 2 * np.trace(sqrtm(first @ second)).real)}


def our_kernel(a: Tensor, b: Tensor) -> dict[str, float]:
    return {"kernel": kernel_distance(a, b).value}


def peer_kernel(a: Tensor, b: Tensor) -> dict[str, float]:
    (n, d), m = a.shape, len(b)
    kernel = (a @ a.T / d + 1) ** 3
    value = (kernel.sum() - kernel.trace()) / (n * (n - 1))
    kernel = (b @ b.T / d + 1) ** 3
    value += (kernel.sum() - kernel.trace()) / (m * (m - 1))
    kernel = (a @ b.T / d + 1) ** 3
    return {"kernel": float(value - 2 * kernel.mean())}


Side = Callable[[Tensor, Tensor], dict[str, float]]
SIDES: dict[str, tuple[Side, Side]] = {
    "prdc": (our_prdc, peer_prdc), "frechet": (our_frechet, peer_frechet), "kernel": (our_kernel, peer_kernel),
}  # fmt: skip


def status(field: str) -> int:
    """A line of this process's status in bytes; its peak VmHWM starts anew where 5 is written to clear_refs (Linux)."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))


def child(what: str, side: int, n: int, d: int, equal: bool) -> None:
    """Run one side and print what it found, its seconds and its bytes as JSON."""
    a, b = data(n, d, equal)
    SIDES[what][side](a[: 2 * d], b[: 2 * d])
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    held = status("VmRSS")
    begun = time.perf_counter()
    found = SIDES[what][side](a, b)
    seconds = time.perf_counter() - begun
    peak = status("VmHWM")
    print(json.dumps({"found": found, "seconds": seconds, "bytes": max(peak - held, 0), "peak": peak}))


def run(what: str, side: int, n: int, d: int, threads: int, equal: bool = False) -> dict:
    """One side in a fresh process."""
    numbers = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    command = [sys.executable, __file__, "--child", what, str(side), str(n), str(d), str(int(equal))]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **numbers})
    if done.returncode != 0:
        sys.exit(f"{what}, side {side}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def difference(ours: dict[str, float], theirs: dict[str, float]) -> float:
    """The largest relative difference."""
    return max(abs(ours[name] - theirs[name]) / max(abs(theirs[name]), 1e-300) if ours[name] != theirs[name] else 0.0 for name in ours)


def table(n: int, d: int, pairs: int, threads: int) -> None:
    print(f"n = m = {n}, d = {d}, float64, {threads} threads, median of {pairs}")
    print(f"{'':10} {'ours':>18} {'peer':>18} {'faster':>8} {'memory':>8} {'difference':>11}")
    for what in SIDES:
        both: list[list[dict]] = [[], []]
        for _ in range(pairs):
            for side in (0, 1):
                both[side].append(run(what, side, n, d, threads))
        seconds, size = ([statistics.median(each[key] for each in side) for side in both] for key in ("seconds", "bytes"))
        cells = [f"{one:7.2f} s {room / 2**20:5.0f} MiB" for one, room in zip(seconds, size)]
        faster, less, gap = seconds[1] / seconds[0], size[0] / max(size[1], 1), difference(both[0][0]["found"], both[1][0]["found"])
        met = "ok" if (faster >= 3 or less <= 1 / 3) and gap <= 1e-6 else "MISSED"
        print(f"{what:10} {cells[0]:>18} {cells[1]:>18} {faster:7.1f}x {less:7.2f}x {gap:11.1e}  {met}")


def anchor(n: int, d: int, threads: int) -> None:
    sides = [run("prdc", side, n, d, threads, equal=True) for side in (0, 1)]
    expected = {"density": 1.0, "coverage": 1 - math.comb(n - 1, 5) / math.comb(2 * n - 1, 5)}
    print(f"\ntwo samples of {n} rows of N(0, I_{d}), k = 5")
    print(f"{'':10} {'ours':>8} {'prdc':>8} {'README':>8} {'expected':>9}")
    for name, published in PUBLISHED.items():
        told = f"{expected[name]:9.3f}" if name in expected else ""
        readme = f"{published:8.3f}" if (n, d) == ANCHOR else f"{'-':>8}"
        print(f"{name:10} {sides[0]['found'][name]:8.4f} {sides[1]['found'][name]:8.4f} {readme} {told}")


def large(n: int, d: int, threads: int) -> None:
    print(f"\n{n} against {n} rows of {d} float64 numbers; the two samples alone are {2 * n * d * 8 / 2**20:.0f} MiB")
    for what in SIDES:
        found = run(what, 0, n, d, threads)
        met = "ok" if found["peak"] < LIMIT else "MISSED"
        print(f"{what:10} {found['seconds']:7.1f} s   {found['peak'] / 2**20:6.0f} MiB in all   {met}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--big", type=int, default=50_000)
    parser.add_argument("--anchor", type=int, nargs=2, default=ANCHOR, metavar=("N", "D"))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        what, *numbers = args.child
        side, n, d, equal = map(int, numbers)
        child(what, side, n, d, bool(equal))
        return
    table(args.n, args.d, args.pairs, args.threads)
    anchor(*args.anchor, args.threads)
    large(args.big, args.d, args.threads)


if __name__ == "__main__":
    main()
