"""PixelCNN: bits per dimension of the digits, nats of binarised MNIST, and the speed of drawing with and without the cache.

    python benchmarks/pixelcnn.py digits                             # three seeds of the default preset, under a minute each
    MANYKIN_DATA=DIR python benchmarks/pixelcnn.py mnist             # ten minutes of training, then all 10,000 test pictures
    python benchmarks/pixelcnn.py sampling                           # 16 pictures of 28 x 28, cached and plain; about two minutes
    python benchmarks/pixelcnn.py digits --scale 0.1 --seeds 1       # a tenth of every budget, to try it out

Every fit has a run folder under ``--out`` and is resumed there, and a finished figure is read from it: an interrupted benchmark goes on where it was.
Ablations run at a fifth of the budget, beside all parts at that fifth, and must be worse.

Reach: 1.78 bits per dimension on the digits (17 levels, split seed 0, 1437/360) within 2 minutes; 82.3 nats on MNIST with dynamic binarisation in 10
minutes; the cache 20 times as fast as without. Known: on the digits a prototype reached 1.777; on MNIST Gated PixelCNN 81.45 (van den Oord et al.,
2016, as quoted by later work). Classical floors: independent pixels, and on the digits mixtures at 2.48 to 2.55 bits.
"""

import argparse
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import manykin as mk
from _kept import kept
from manykin.data.dataset import Rows
from manykin.decoding import Decoding
from manykin.models.autoregressive.pixelcnn import PixelCNN, PixelCNNConfig
from manykin.spaces import Image

FLOOR = "independent"
MNIST_SECONDS, DIGITS_STEPS = 580.0, 400
DYNAMIC = {"binarise": "dynamic"}
Parts = tuple[dict[str, Any], dict[str, Any]]
DIGITS_ABLATION: dict[str, Parts] = {
    "all parts": ({}, {}),
    "AdamW": ({"optimizer": "adamw"}, {"lr": 3e-3}),
    "one layer": ({"layers": 1}, {}),
    "mixture of logistics": ({"likelihood": "discretised-logistic"}, {}),
}
MNIST_ABLATION: dict[str, Parts] = {
    "all parts": ({}, {}),
    "AdamW": ({"optimizer": "adamw"}, {"lr": 3e-3}),
    "last weights, constant rate": ({}, {"ema": None, "schedule": "constant"}),
    "three layers": ({"layers": 3}, {}),
}


def nats(model: Any, rows: Rows, every: int) -> tuple[float, float, int]:
    """The mean of -log p over every so many rows, its standard error, and how many rows these are."""
    x = rows.all().x
    assert isinstance(x, torch.Tensor)
    with torch.no_grad():
        values = -torch.cat([model.log_prob(part) for part in torch.split(x[::every], 500)])
    return float(values.mean()), float(values.std()) / math.sqrt(len(values)), len(values)


def figure(
    folder: Path, name: str, source: str, seed: int, parts: Parts, *, preset: str = "default", reading: Mapping[str, Any] | None = None,
    steps: int | None = None, seconds: float | None = None, every: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """The test figure of one fit, its error, and the seconds of training."""

    def compute() -> dict[str, Any]:
        begun = time.perf_counter()
        options, train = parts
        fitted = mk.fit(
            name, source, seed=seed, preset=preset, options=options, train=train, data_options=reading, max_steps=steps, max_time=seconds, out=folder,
            resume=True,
        )  # fmt: skip
        spent = time.perf_counter() - begun
        test = mk.load_data(source, options=reading).test
        assert test is not None
        value, stderr, n = nats(fitted.model, test, every)
        size = sum(parameter.numel() for parameter in fitted.model.parameters())
        steps_done = fitted.result.get("steps")
        return {"nats": value, "stderr": stderr, "seconds": round(spent, 1), "parameters": size, "n": n, "steps": steps_done}

    return kept(folder.parent / f"{folder.name}{'' if every == 1 else f'-every-{every}'}.json", compute)


def tell(label: str, row: Mapping[str, Any], scale: float, unit: str) -> float:
    """Print one figure in its unit; returns it."""
    value = row["nats"] * scale
    print(
        f"{label:44}{value:>9.3f} ± {row['stderr'] * scale:.3f} {unit} (n = {row['n']})  {row['seconds']:>5.0f} s, {row['steps']} steps, "
        f"{row['parameters']:,} parameters", flush=True,
    )  # fmt: skip
    return float(value)


def slug(label: str) -> str:
    """A label as part of a file's name."""
    return label.lower().replace(",", "").replace(" ", "-")


def digits(out: Path, seeds: int, scale: float) -> None:
    """Seeds of the default preset, the floor, and the ablation at a fifth of the steps."""
    bits, steps = 1 / (64 * math.log(2)), max(5, round(scale * DIGITS_STEPS))
    tell("independent pixels (classical floor)", figure(out / "digits-floor", FLOOR, "digits", 0, ({}, {})), bits, "bits/dim")
    found = []
    for seed in range(seeds):
        row = figure(out / f"digits-{scale:g}-{seed}", "pixelcnn", "digits", seed, ({}, {}), steps=steps)
        found.append(tell(f"pixelcnn, seed {seed}", row, bits, "bits/dim"))
    print(f"mean {sum(found) / len(found):.3f}, seeds {min(found):.3f} to {max(found):.3f}; reach 1.78: {'yes' if max(found) <= 1.78 else 'no'}")
    for label, parts in DIGITS_ABLATION.items():
        row = figure(out / f"digits-{scale:g}-fifth-{slug(label)}", "pixelcnn", "digits", 0, parts, steps=max(5, steps // 5))
        tell(f"a fifth: {label}", row, bits, "bits/dim")


def mnist(out: Path, scale: float, every: int) -> None:
    """Ten minutes of the preset ``cpu`` on MNIST with dynamic binarisation, and the ablation at a fifth of the time."""
    floor = figure(out / "mnist-floor", FLOOR, "mnist", 0, ({}, {}), reading=DYNAMIC, every=every)
    tell("independent pixels (classical floor)", floor, 1.0, "nats")
    budget = scale * MNIST_SECONDS
    row = figure(out / f"mnist-{scale:g}", "pixelcnn", "mnist", 0, ({}, {}), preset="cpu", reading=DYNAMIC, seconds=budget, every=every)
    value = tell("pixelcnn, preset cpu", row, 1.0, "nats")
    print(f"reach 82.3: {'yes' if value <= 82.3 else 'no'}; known: Gated PixelCNN 81.45")
    for label, parts in MNIST_ABLATION.items():
        place = out / f"mnist-{scale:g}-fifth-{slug(label)}"
        row = figure(place, "pixelcnn", "mnist", 0, parts, preset="cpu", reading=DYNAMIC, seconds=budget / 5, every=every)
        tell(f"a fifth: {label}", row, 1.0, "nats")


def sampling(out: Path, scale: float, batch: int) -> None:
    """Seconds for a batch of pictures with the cache and without; the pictures must be the same."""
    side = max(4, round(28 * math.sqrt(scale)))
    torch.manual_seed(0)
    model = PixelCNN(PixelCNNConfig(layers=10, width=32), Image((1, side, side), levels=2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    PixelCNN.sample_block = batch

    def drawn(use: bool) -> tuple[torch.Tensor, float]:
        begun = time.perf_counter()
        x = model.sample(batch, seed=0, sampler=Decoding(use_cache=use))
        assert isinstance(x, torch.Tensor)
        return x, time.perf_counter() - begun

    drawn(True)
    cached = [drawn(True) for _ in range(3)]
    plain, seconds = drawn(False)
    fastest = min(each[1] for each in cached)
    same = all(torch.equal(plain, x) for x, _ in cached)
    row = {"side": side, "batch": batch, "cached": fastest, "plain": seconds, "ratio": seconds / fastest, "same": same}
    kept(out / f"sampling-{side}-{batch}.json", lambda: row)
    print(f"{batch} pictures of {side} x {side}: cached {fastest:.3f} s, plain {seconds:.2f} s, {seconds / fastest:.0f} x; same pictures: {same}")
    print(f"reach 20 x: {'yes' if same and seconds >= 20 * fastest else 'no'}; known: up to 183 x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=("digits", "mnist", "sampling"))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/pixelcnn"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="share of every budget")
    parser.add_argument("--every", type=int, default=1, help="score every so many MNIST test pictures, to try it out")
    parser.add_argument("--batch", type=int, default=16, help="pictures that are drawn at a time")
    options = parser.parse_args()
    if options.task == "digits":
        digits(options.out, options.seeds, options.scale)
    elif options.task == "mnist":
        mnist(options.out, options.scale, options.every)
    else:
        sampling(options.out, options.scale, options.batch)


if __name__ == "__main__":
    main()
