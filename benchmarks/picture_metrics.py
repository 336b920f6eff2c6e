"""Offline Fréchet and kernel distances on MNIST: do they rank pictures as they should, whatever the seed of the feature network?

    MANYKIN_DATA=DIR python benchmarks/picture_metrics.py                                       # 5,000 samples, 60 s a model, three networks
    MANYKIN_DATA=DIR python benchmarks/picture_metrics.py --rows 4000 --n 500 --seconds 10      # smaller
    MANYKIN_DATA=DIR python benchmarks/picture_metrics.py --unlabelled                          # self-supervised networks

Held-out test pictures are compared with real pictures that neither a model nor a network was trained on (the floor), with samples of a good
model (a variational autoencoder), of a weak one (the same after a twelfth of the time), of a Gaussian and of independent pixels, with uniform noise,
and with planted steps: real pictures with little and with more noise, blurred, and without the digit 3. Goal: real < good < weak < noise for each
network. There is no published MNIST-FD to compare with, since networks differ; the last column says how many times its floor a distance is. About
5 minutes on two cores.
"""

import argparse
import math
import os
import time
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

import manykin as mk
from manykin.data import load_data
from manykin.data.dataset import Dataset, Rows
from manykin.metrics import frechet_distance, frechet_infinity, kernel_distance
from manykin.metrics.case import Case
from manykin.metrics.features.own import OwnNetwork, own_network
from manykin.random import generator

ORDER = ("real pictures", "good model: vae", "weak model: vae, a twelfth", "uniform noise")


def split(rows: int, n: int) -> tuple[Dataset, Rows]:
    """MNIST with at most so many training rows, and n real pictures that nothing is trained on."""
    data = load_data("mnist")
    order = torch.randperm(len(data.train), generator=generator(0, "picture metrics"))
    assert data.test is not None
    test = data.test.select(torch.randperm(len(data.test), generator=generator(1, "picture metrics"))[:n])
    return replace(data, train=data.train.select(order[n : n + rows]), val=None, test=test), data.train.select(order[:n])


def planted(real: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Real pictures spoiled on purpose."""
    draw = generator(2, "picture metrics")
    x = real.float()
    kernel = torch.tensor([1.0, 2.0, 1.0])
    blurred = conv2d(pad(x, (1, 1, 1, 1)), (kernel[:, None] * kernel / 16)[None, None])
    noisy = [(x + level * torch.randn(x.shape, generator=draw)) for level in (16, 64)]
    steps = {
        "real, noise of 16 levels": noisy[0],
        "real, noise of 64 levels": noisy[1],
        "real, blurred 3 x 3": blurred,
        "real, without 3": x[labels != 3],
    }
    return {name: each.round().clamp(0, 255).to(torch.uint8) for name, each in steps.items()}


def sample_sets(data: Dataset, honest: Rows, n: int, seconds: float) -> dict[str, Tensor]:
    """What is judged, by name."""
    real = honest.all().x
    assert isinstance(real, Tensor)
    assert honest.labels is not None
    found = {"real pictures": real, **planted(real, honest.labels)}
    plan = (
        (ORDER[1], "vae", seconds),
        (ORDER[2], "vae", seconds / 12),
        ("gaussian", "gaussian", seconds),
        ("independent pixels", "independent", seconds),
    )
    for title, model, limit in plan:
        start = time.perf_counter()
        fitted = mk.fit(model, data, max_time=limit, seed=0)
        found[title] = fitted.model.sample(n, seed=0)
        print(f"{title}: {time.perf_counter() - start:.0f} s")
    found["uniform noise"] = torch.randint(256, real.shape, generator=generator(3, "picture metrics"), dtype=torch.uint8)
    return found


def networks(data: Dataset, seeds: int, labelled: bool) -> list[OwnNetwork]:
    """One feature network a seed."""
    assert data.test is not None
    train = data.train if labelled else replace(data.train, label=None)
    case = Case(data.space, train, data.test, data.test.all().x, None, data.classes)
    found = []
    for seed in range(seeds):
        start = time.perf_counter()
        network = own_network(case, "mnist", seed)
        accuracy = "" if network.accuracy is None else f", {100 * network.accuracy:.2f} % of its validation pictures right (aim 99)"
        print(f"seed {seed}: {network.name}{accuracy}, {time.perf_counter() - start:.0f} s")
        found.append(network)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=55_000)
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--unlabelled", action="store_true")
    options = parser.parse_args()
    if not os.environ.get("MANYKIN_DATA"):
        print("left out: it needs MNIST in the folder that MANYKIN_DATA names, and that is not set.")
        return
    data, honest = split(options.rows, options.n)
    assert data.test is not None
    extractors = networks(data, options.seeds, not options.unlabelled)
    sets = sample_sets(data, honest, options.n, options.seconds)
    held = data.test.all().x
    assert isinstance(held, Tensor)
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in sets}
    for extractor in extractors:
        real = extractor.features(held)
        for name, x in sets.items():
            fake = extractor.features(x)
            estimates = frechet_distance(real, fake), frechet_infinity(real, fake), kernel_distance(real, fake)
            results[name].append((estimates[0].value, estimates[1].value, estimates[2].value))
    floors = results["real pictures"]
    print(f"\n{len(held)} held-out pictures, mean and sd over {len(extractors)} feature networks; FD inf: extrapolated to infinitely many pictures")
    print(f"{'':28s}{'FD':>9s}{'sd':>8s}{'FD inf':>9s}{'sd':>8s}{'KD x 1000':>11s}{'sd':>8s}{'FD / floor':>12s}{'sd':>7s}")
    for name, values in results.items():
        table = torch.tensor(values, dtype=torch.float64)
        ratio = table[:, 0] / torch.tensor(floors, dtype=torch.float64)[:, 0]
        mean, spread = table.mean(dim=0), table.std(dim=0) if len(table) > 1 else torch.full((3,), math.nan)
        print(f"{name:28s}{mean[0]:9.2f}{spread[0]:8.2f}{mean[1]:9.2f}{spread[1]:8.2f}{1000 * mean[2]:11.2f}{1000 * spread[2]:8.2f}"
              f"{ratio.mean():12.1f}{ratio.std() if len(ratio) > 1 else math.nan:7.1f}")  # fmt: skip
    for column, metric in enumerate(("FD", "FD inf", "KD")):
        right = [all(results[a][seed][column] < results[b][seed][column] for a, b in pairwise(ORDER)) for seed in range(len(extractors))]
        print(f"{metric}: real < good < weak < noise for {sum(right)} of {len(right)} networks (goal: all)")


if __name__ == "__main__":
    main()
