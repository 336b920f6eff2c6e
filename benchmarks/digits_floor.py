"""The floors of scikit-learn's digits: independent columns and mixtures of products, exact test likelihoods.

Split: ``numpy.random.RandomState(0).permutation``, the first 1437 rows to train, the other 360 to test. Goals on binarised digits (level >= 8) in
nats an image: independent 25.06, mixtures of 10 / 30 / 60 / 120 components 19.63 / 17.84 / 17.42 / 17.33; on 17 levels: independent about 2.43 bits a
dimension. Run ``python benchmarks/digits_floor.py``; takes half a minute. Also prints the same figures on scikit-learn's own split
(``train_test_split(test_size=0.2, random_state=0)``), where the floors are 25.30 and 2.434.
"""

import math
import time

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from manykin.contract import GenerativeModel
from manykin.data.dataset import Dataset, Rows
from manykin.models.classical.independent import Independent
from manykin.models.classical.mixture import Mixture, MixtureConfig
from manykin.spaces import Image
from manykin.training import TrainOptions, train

GOALS = {"independent": 25.06, 10: 19.63, 30: 17.84, 60: 17.42, 120: 17.33}


def score(model: GenerativeModel, rows: torch.Tensor, test: torch.Tensor, seed: int) -> tuple[float, float, float]:
    """Fit; mean test nats, their standard error, and seconds."""
    start = time.perf_counter()
    train(model, Dataset("digits", model.space, Rows(rows)), TrainOptions(), seed=seed)
    seconds = time.perf_counter() - start
    nats = -model.log_prob(test)
    return float(nats.mean()), float(nats.std()) / math.sqrt(len(test)), seconds


def tables(name: str, rows: torch.Tensor, test: torch.Tensor) -> None:
    """Both tables for one split."""
    binary, levels = Image((1, 8, 8), 2), Image((1, 8, 8), 17)
    print(f"\nsplit: {name} ({len(rows)} train, {len(test)} test)")
    print("binarised digits, nats/image (exact)      test      s.e.    goal   fit")
    mean, error, seconds = score(Independent(None, binary), (rows >= 8).byte(), (test >= 8).byte(), 0)
    print(f"  independent                          {mean:8.3f}  {error:8.3f}  {GOALS['independent']:6.2f}  {seconds:4.1f} s")
    for k in (10, 30, 60, 120):
        mean, error, seconds = score(Mixture(MixtureConfig(n_components=k), binary), (rows >= 8).byte(), (test >= 8).byte(), 0)
        print(f"  mixture, {k:3d} components              {mean:8.3f}  {error:8.3f}  {GOALS[k]:6.2f}  {seconds:4.1f} s")
    unit = 64 * math.log(2)
    print("17 levels, bits/dim (exact)               test      s.e.    goal   fit")
    mean, error, seconds = score(Independent(None, levels), rows, test, 0)
    print(f"  independent                          {mean / unit:8.4f}  {error / unit:8.4f}  {2.43:6.2f}  {seconds:4.1f} s")
    preset = Mixture.presets["default"]
    assert callable(preset)
    options = preset(levels, len(rows)).model
    for k in (10, 30, int(options["n_components"]), 120):
        mean, error, seconds = score(Mixture(MixtureConfig(n_components=k), levels), rows, test, 0)
        note = " (default)" if k == options["n_components"] else ""
        print(f"  {f'mixture, {k:3d} components{note}':36s} {mean / unit:8.4f}  {error / unit:8.4f}          {seconds:4.1f} s")


if __name__ == "__main__":
    pictures = torch.tensor(load_digits().images.astype(np.uint8))[:, None]
    order = torch.tensor(np.random.RandomState(0).permutation(len(pictures)))
    tables("numpy permutation, seed 0", pictures[order[:1437]], pictures[order[1437:]])
    first, second = train_test_split(np.arange(len(pictures)), test_size=0.2, random_state=0)
    tables("train_test_split, random_state 0", pictures[torch.tensor(first)], pictures[torch.tensor(second)])
