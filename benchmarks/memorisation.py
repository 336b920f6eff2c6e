"""Memorisation and diversity on digits: every figure for honest rows, planted copies and models; then time and memory of exact neighbours.

python benchmarks/memorisation.py [--rows N]

797 training rows, 500 held out, 500 samples. ``honest`` are real rows that neither split holds: what a perfect model draws. Copies of training rows
are planted into them. The kernel density at its cross-validated bandwidth keeps every training row: what it draws are noisy copies.
Reference: ct_score far below 0 means copying (Meehan, Chaudhuri and Dasgupta, 2020: below -3); a share of 1/2 closer to training than to held-out
rows is that of a model that knows nothing of them; near-duplicates of real rows are 1 in 100.
"""

import argparse
import dataclasses
import resource
import time

import torch
from sklearn.neighbors import NearestNeighbors

import manykin as mk
from manykin.data.dataset import Rows
from manykin.metrics import Case, Finding, judge
from manykin.metrics.judge import FLOOR
from manykin.metrics.neighbours import nearest
from manykin.random import generator

TRAIN, TEST, SAMPLES = 797, 500, 500
FIGURES = (
    "exact_copies", "near_duplicates", "ct_score", "train_holdout_share", "authenticity", "distinct_share", "duplicated_samples", "sample_spread",
    "mode_coverage", "mode_distance",
)  # fmt: skip
MODELS = (
    ("independent", "independent", {}),
    ("mixture, 10", "gaussian-mixture", {"n_components": 10}),
    ("kde h=0.05", "kde", {"bandwidth": 0.05}),
    ("kde h=0.5", "kde", {"bandwidth": 0.5}),
    ("kde h=2", "kde", {"bandwidth": 2.0}),
    ("kde, its own h", "kde", {}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000, help="rows of the neighbour search")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures()
    neighbours(options.rows)


def figures() -> None:
    """The table of figures: a value beside what real rows have, * where the metric itself warns."""
    data = mk.load_data("digits")
    x = torch.cat([data.train.all().x, data.test.all().x])
    x = x[torch.randperm(len(x), generator=generator(0, "benchmark"))]
    train, test, honest = x[:TRAIN], x[TRAIN : TRAIN + TEST], x[TRAIN + TEST :][:SAMPLES]
    print(f"{'samples':16}{'seconds':>8}" + "".join(f"{name.removesuffix('_samples'):>21}" for name in FIGURES))
    rows: list[tuple[str, torch.Tensor]] = [("honest", honest)]
    for share in (0.01, 0.05, 0.2, 1.0):
        copies = round(share * SAMPLES)
        rows.append((f"{share:.0%} copies", torch.cat([train[:copies], honest[copies:]])))
    rows += [
        ("10 rows, 50 times", honest[:10].repeat(50, 1, 1, 1)),
        ("noise", torch.randint(17, honest.shape, generator=generator(0), dtype=x.dtype)),
    ]
    for name, model, settings in MODELS:
        fitted = mk.fit(model, dataclasses.replace(data, train=Rows(train), val=None, test=Rows(test)), options=settings or None, seed=0)
        rows.append((name, fitted.model.sample(SAMPLES, seed=0)))
    space = data.space
    for name, samples in rows:
        start = time.perf_counter()
        found = judge(Case(space, Rows(train), Rows(test), samples.to(x.dtype)), ["memorisation", "diversity"])
        print(f"{name:16.16}{time.perf_counter() - start:>8.2f}{line(found)}", flush=True)
        for warning in found.warnings:
            print(f"{'':16}  warns: {warning.split(':')[0]}", flush=True)


def line(found: Finding) -> str:
    """Each figure as value (floor)."""
    values = {each.name: each.value for each in found.estimates}
    shown = (f"{values[name]:.3f} ({values[name + FLOOR]:.3f})" if name in values else "" for name in FIGURES)
    return "".join(f"{each:>21}" for each in shown)


def neighbours(n: int) -> None:
    """Exact neighbours of n rows among n rows, beside scikit-learn's brute force on a part of the queries, alternating."""
    print(f"\nexact 5 nearest of {n} among {n} rows, one thread; scikit-learn: brute force on 1/16 of the queries, times 16")
    for d in (2, 64, 512):
        x, y = (torch.randn(n, d, generator=generator(seed, "rows")) for seed in (0, 1))
        before, start = peak(), time.perf_counter()
        distances, indices = nearest(x, y, 5)
        ours, grown = time.perf_counter() - start, peak() - before
        part = n // 16
        start = time.perf_counter()
        theirs, where = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(y.double().numpy()).kneighbors(x[:part].double().numpy())
        other = 16 * (time.perf_counter() - start)
        gap = float(((distances[:part] - torch.tensor(theirs)).abs() / distances[:part]).max())
        same = float((indices[:part] == torch.tensor(where)).double().mean())
        print(f"  d = {d:4}  ours {ours:6.1f} s, {grown:5.0f} MB more, peak {peak():5.0f} MB   scikit-learn {other:6.1f} s   "
              f"largest relative difference {gap:.1e}, same neighbours {same:.4%}", flush=True)  # fmt: skip


def peak() -> float:
    """The most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
