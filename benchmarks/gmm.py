"""Gaussian mixture: time and likelihood beside scikit-learn's in one run, and memory on data larger than fits.

    python benchmarks/gmm.py                 # n = 200,000, d = 25, k = 8, 20 EM iterations from the same start, all four covariance types
    python benchmarks/gmm.py --stream        # 10 million x 10 float64 in a file, fitted in a child process: its peak resident memory

Targets: full at 200,000 rows takes at most 0.3 of scikit-learn's time at a likelihood equal to 1e-6 relative; the stream stays under 2 GiB.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

TYPES = ("full", "tied", "diag", "spherical")


def blobs(n: int, d: int, k: int, seed: int = 0) -> np.ndarray:
    """Overlapping correlated clusters, float64 (n, d)."""
    rng = np.random.default_rng(seed)
    centres, shapes = 2 * rng.normal(size=(k, d)), rng.normal(size=(k, d, d)) / 5 + np.eye(d)
    labels = rng.integers(0, k, n)
    rows = np.empty((n, d))
    for component in range(k):
        chosen = labels == component
        rows[chosen] = centres[component] + rng.normal(size=(int(chosen.sum()), d)) @ shapes[component].T
    return rows


def start_of(x: np.ndarray, k: int, covariance_type: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Weights, means, covariances and precisions that both sides start from."""
    pooled = np.cov(x.T)
    covariances = {
        "full": np.stack([pooled] * k), "tied": pooled, "diag": np.stack([np.diag(pooled)] * k), "spherical": np.full(k, np.diag(pooled).mean()),
    }[covariance_type]  # fmt: skip
    precisions = np.linalg.inv(covariances) if covariance_type in ("full", "tied") else 1 / covariances
    return np.full(k, 1 / k), x[:k].copy(), covariances, precisions


def run_peer(x: np.ndarray, k: int, covariance_type: str, passes: int) -> tuple[float, float]:
    """Seconds and mean log-likelihood of scikit-learn; its own initialisation is the cheapest, then replaced."""
    from sklearn.mixture import GaussianMixture

    weights, means, _, precisions = start_of(x, k, covariance_type)
    peer = GaussianMixture(
        k, covariance_type=covariance_type, tol=0, max_iter=passes, init_params="random_from_data", random_state=0,
        weights_init=weights, means_init=means, precisions_init=precisions,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began = time.perf_counter()
        peer.fit(x)
        seconds = time.perf_counter() - began
    return seconds, float(peer.score(x))


def run_ours(x: np.ndarray, k: int, covariance_type: str, passes: int) -> tuple[float, float]:
    """Seconds of ``manykin.training.train``, everything included, and mean log-likelihood."""
    from manykin.data.dataset import Dataset, Rows
    from manykin.models.classical.gaussian_mixture import GaussianMixture, GaussianMixtureConfig
    from manykin.spaces import Vector
    from manykin.training import TrainOptions, train

    space, rows = Vector(x.shape[1]), torch.from_numpy(x)
    model = GaussianMixture(GaussianMixtureConfig(n_components=k, covariance_type=covariance_type, tol=0.0, max_iter=passes), space)
    weights, means, covariances, _ = start_of(x, k, covariance_type)
    model.set_start(torch.from_numpy(weights), torch.from_numpy(means), torch.from_numpy(covariances))
    data = Dataset("blobs", space, Rows(rows))
    began = time.perf_counter()
    train(model, data, TrainOptions(), seed=0)
    seconds = time.perf_counter() - began
    with torch.no_grad():
        return seconds, float(model.log_prob(rows).mean())


def side_by_side(options: argparse.Namespace) -> None:
    """A table: median seconds of both over interleaved repeats, their ratio, and the difference of the likelihoods."""
    x = blobs(options.rows, options.columns, options.components)
    run_ours(x[:20_000], options.components, "full", 1)
    print(f"n = {options.rows:,}, d = {options.columns}, k = {options.components}, {options.passes} iterations, {torch.get_num_threads()} threads")
    print(f"{'covariance':<12}{'scikit-learn':>14}{'manykin':>10}{'ratio':>8}{'log-likelihood':>17}{'relative gap':>14}")
    for covariance_type in options.types:
        pairs = []
        for _ in range(options.repeats):
            peer = run_peer(x, options.components, covariance_type, options.passes)
            pairs.append((peer, run_ours(x, options.components, covariance_type, options.passes)))
        peer_s, our_s = (statistics.median(pair[side][0] for pair in pairs) for side in (0, 1))
        ratio = statistics.median(ours[0] / peer[0] for peer, ours in pairs)
        gap = max(abs(ours[1] / peer[1] - 1) for peer, ours in pairs)
        print(f"{covariance_type:<12}{peer_s:>12.2f} s{our_s:>8.2f} s{ratio:>8.2f}{pairs[0][1][1]:>17.6f}{gap:>14.1e}", flush=True)


def write_stream(path: Path, n: int, d: int, dtype: str) -> None:
    """An NPY file of n rows, written block by block."""
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=(n, d))
    rows = blobs(min(n, 200_000), d, 8)
    rng = np.random.default_rng(1)
    for start in range(0, n, len(rows)):
        block = rows[: min(len(rows), n - start)]
        file[start : start + len(block)] = block + 0.1 * rng.normal(size=block.shape)
    file.flush()


def fit_stream(path: str, passes: int) -> None:
    """The child: fit from the file, print one line of JSON with the peak resident memory of this process."""
    import manykin as mk

    began = time.perf_counter()
    fitted = mk.fit("gaussian-mixture", path, options={"n_components": 8, "covariance_type": "full", "max_iter": passes, "tol": 0.0})
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak_bytes": peak, "weights": fitted.parameters_table()["weights"].tolist()}))


def stream(options: argparse.Namespace) -> None:
    """Write a file, fit it in a child process, print its peak memory. A tenth of the file is run too: memory must not grow with n."""
    for n in (options.rows // 10, options.rows):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.npy"
            write_stream(path, n, options.columns, options.dtype)
            call = [sys.executable, __file__, "--child", str(path), "--passes", str(options.passes)]
            answer = subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1]
            result, size = json.loads(answer), path.stat().st_size
        print(
            f"{n:,} x {options.columns} {options.dtype} ({size / 2**20:,.0f} MiB on disk), {options.passes} passes: "
            f"{result['seconds']:.1f} s, peak resident memory {result['peak_bytes'] / 2**30:.2f} GiB (the mapped file's pages included)",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stream", action="store_true", help="measure memory on a file instead")
    parser.add_argument("--rows", type=int, default=None, help="default 200,000, or 10 million with --stream")
    parser.add_argument("--columns", type=int, default=None, help="default 25, or 10 with --stream")
    parser.add_argument("--components", type=int, default=8)
    parser.add_argument("--passes", type=int, default=None, help="EM iterations; default 20, or 5 with --stream")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64", help="of the streamed file")
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    streaming = options.stream or options.child is not None
    options.rows = options.rows or (10_000_000 if streaming else 200_000)
    options.columns = options.columns or (10 if streaming else 25)
    options.passes = options.passes or (5 if streaming else 20)
    if options.child is not None:
        fit_stream(options.child, options.passes)
    elif options.stream:
        stream(options)
    else:
        side_by_side(options)


if __name__ == "__main__":
    main()
