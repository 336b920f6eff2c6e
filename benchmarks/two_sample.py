"""Two-sample metrics beside POT and plain scikit-learn code: time and peak memory, each side in a process of its own.

    python benchmarks/two_sample.py                        # n = 20,000, d = 512: ours and the peer of each metric; then 50,000 x 50,000 x 64, ours
    python benchmarks/two_sample.py --n 4000 --d 64 --large 0      # smaller, and without the large one
    python benchmarks/two_sample.py --only sliced_wasserstein mmd

Seconds are processor time, all threads together. Memory is what a call adds to the peak of a process that holds the data already; of the large
runs it is the whole process. Targets: equal values to 1e-6 relative (below 1e-6 of the distances themselves float32 products leave no digits); at
least 3 times faster or at most a third of the memory; 50,000 x 50,000 x 64 in less than 2 GiB. The classifier test has no peer here.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

PEERS = {
    "energy": "sklearn euclidean_distances", "mmd": "sklearn rbf_kernel", "mmd_polynomial": "sklearn polynomial_kernel",
    "sliced_wasserstein": "POT", "c2st": "",
}  # fmt: skip
SHIFT = 0.05


def samples(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Two Gaussian samples, the second moved a little."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((n, d)), rng.standard_normal((n, d))
    y += SHIFT
    return x, y


def ours(name: str, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Value and standard error."""
    import torch

    from manykin.metrics import classifier_two_sample, energy_distance, mmd, sliced_wasserstein

    a, b = torch.from_numpy(x), torch.from_numpy(y)
    width = math.sqrt(x.shape[1])
    found = {
        "energy": lambda: energy_distance(a, b),
        "mmd": lambda: mmd(a, b, bandwidth=width),
        "mmd_polynomial": lambda: mmd(a, b, kernel="polynomial"),
        "sliced_wasserstein": lambda: sliced_wasserstein(a, b, directions=torch.from_numpy(directions(x.shape[1]))),
        "c2st": lambda: classifier_two_sample(a, b)[0],
    }[name]()
    return found.value, found.stderr or 0.0


def directions(d: int) -> np.ndarray:
    """256 unit vectors, shape (d, 256)."""
    normal = np.random.default_rng(1).standard_normal((d, 256))
    return normal / np.linalg.norm(normal, axis=0)


def unbiased(kernel: Callable[[np.ndarray, np.ndarray], np.ndarray], x: np.ndarray, y: np.ndarray) -> float:
    """E k(X, X') + E k(Y, Y') - 2 E k(X, Y) from whole matrices."""
    total = -2 * kernel(x, y).mean()
    for each in (x, y):
        gram = kernel(each, each)
        np.fill_diagonal(gram, 0.0)
        total += gram.sum() / (len(each) * (len(each) - 1))
    return float(total)


def peer(name: str, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The same number by the reference; no standard error."""
    from sklearn.metrics.pairwise import euclidean_distances, polynomial_kernel, rbf_kernel

    if name == "energy":
        return -unbiased(euclidean_distances, x, y), 0.0
    if name == "mmd":
        return unbiased(lambda a, b: rbf_kernel(a, b, gamma=0.5 / x.shape[1]), x, y), 0.0
    if name == "mmd_polynomial":
        return unbiased(lambda a, b: polynomial_kernel(a, b, degree=3, gamma=1 / x.shape[1], coef0=1), x, y), 0.0
    import ot

    return float(ot.sliced_wasserstein_distance(x, y, projections=directions(x.shape[1]), p=2)), 0.0


def child(side: str, name: str, n: int, d: int) -> None:
    """Run one side once and print what it took as JSON."""
    call = {"ours": ours, "peer": peer}[side]
    call(name, *samples(40, 4))
    x, y = samples(n, d)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    value, stderr = call(name, x, y)
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"value": value, "stderr": stderr, "seconds": seconds, "added": (peak - before) / 1024, "peak": peak / 1024}))


def measure(side: str, name: str, n: int, d: int) -> dict[str, float]:
    """One side in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--child", side, name, str(n), str(d)], capture_output=True, text=True)
    if done.returncode != 0:
        return {"value": math.nan, "stderr": 0.0, "seconds": math.nan, "added": math.nan, "peak": math.nan}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--large", type=int, default=50_000, help="rows of the large run, 64 columns; 0 leaves it out")
    parser.add_argument("--only", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        side, name, n, d = given.child
        child(side, name, int(n), int(d))
        return
    print(f"n = {given.n:,} x {given.n:,}, d = {given.d}")
    print(f"{'metric':<20}{'value':>12}{'stderr':>10}{'difference':>12}{'ours s':>9}{'peer s':>9}{'ours MB':>9}{'peer MB':>9}  faster  memory  peer")
    for name in given.only:
        mine = measure("ours", name, given.n, given.d)
        row = f"{name:<20}{mine['value']:>12.6g}{mine['stderr']:>10.2g}"
        if not PEERS[name]:
            print(f"{row}{'':>12}{mine['seconds']:>9.2f}{'':>9}{mine['added']:>9.0f}", flush=True)
            continue
        other = measure("peer", name, given.n, given.d)
        gap = abs(mine["value"] / other["value"] - 1)
        faster, share = other["seconds"] / mine["seconds"], mine["added"] / max(other["added"], 1e-9)
        print(
            f"{row}{gap:>12.1e}{mine['seconds']:>9.2f}{other['seconds']:>9.2f}{mine['added']:>9.0f}{other['added']:>9.0f}"
            f"{faster:>7.1f}x{share:>8.2f}  {PEERS[name]}  {'ok' if faster >= 3 or share <= 1 / 3 else 'MISSED'}",
            flush=True,
        )
    if given.large:
        print(f"\nn = {given.large:,} x {given.large:,}, d = 64: peak of the whole process, target 2,048 MB")
        for name in given.only:
            mine = measure("ours", name, given.large, 64)
            print(f"{name:<20}{mine['value']:>12.6g}{mine['stderr']:>10.2g}{mine['seconds']:>9.1f} s{mine['peak']:>9.0f} MB", flush=True)


if __name__ == "__main__":
    main()
