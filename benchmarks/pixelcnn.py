"""PixelCNN: bits per dimension of the digits, nats of binarised MNIST, and the speed of drawing with and without the cache.

    python benchmarks/pixelcnn.py                                    # all tasks; without MANYKIN_DATA all but mnist
    python benchmarks/pixelcnn.py digits                             # three seeds of the default preset, under a minute each
    MANYKIN_DATA=DIR python benchmarks/pixelcnn.py mnist             # ten minutes of training, then all 10,000 test pictures
    python benchmarks/pixelcnn.py sampling                           # 16 pictures of 28 x 28, cached and plain in turn; minutes, for the plain side
    python benchmarks/pixelcnn.py digits --scale 0.1 --seeds 1       # a tenth of every budget, to try it out

Every fit has a run folder under ``--out`` and is resumed there, and a finished figure is read from it: an interrupted benchmark goes on where it was.
Ablations run at a fifth of the budget, beside all parts at that fifth, and must be worse: by how much, with the error of the difference over the same
test pictures, and whether that is more than two errors, is printed.

Reach: 1.78 bits per dimension on the digits (17 levels, split seed 0, 1437/360) within 2 minutes; 82.3 nats on MNIST with dynamic binarisation in 10
minutes; the cache 20 times as fast as without. Known: on the digits a prototype reached 1.777; on MNIST Gated PixelCNN 81.45 (van den Oord et al.,
2016, as quoted by later work). Classical floors: independent pixels, and on the digits mixtures at 2.48 to 2.55 bits. A limit of time becomes a
number of steps once, after a few of them: seconds of training, by the run's own clock, stand beside the limit.
"""

import argparse
import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import manykin as mk
from _kept import kept, listed, losses, mean_and_error, slug, tasks, worse, yes
from manykin.decoding import Decoding
from manykin.models.autoregressive.pixelcnn import PixelCNN, PixelCNNConfig
from manykin.spaces import Image

FLOOR = "independent"
MNIST_SECONDS, DIGITS_STEPS = 580.0, 400
MNIST_LIMIT, DIGITS_LIMIT = 600.0, 120.0
DYNAMIC = {"binarise": "dynamic"}
Parts = tuple[dict[str, Any], dict[str, Any]]
DIGITS_ABLATION: dict[str, Parts] = {
    "all parts": ({}, {}),
    "AdamW": ({}, {"optimizer": "adamw", "lr": 3e-3}),
    "one layer": ({"layers": 1}, {}),
    "mixture of logistics": ({"likelihood": "logistic-mixture"}, {}),
}
MNIST_ABLATION: dict[str, Parts] = {
    "all parts": ({}, {}),
    "AdamW": ({}, {"optimizer": "adamw", "lr": 3e-3}),
    "last weights, constant rate": ({}, {"ema": None, "schedule": "constant"}),
    "three layers": ({"layers": 3}, {}),
}


def figure(
    folder: Path, name: str, source: str, seed: int, parts: Parts, *, preset: str = "default", reading: Mapping[str, Any] | None = None,
    steps: int | None = None, seconds: float | None = None, every: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """-log p of every so many test rows under one fit, their mean and its error, and the seconds of training."""
    options, train = parts

    def compute() -> dict[str, Any]:
        fitted = mk.fit(
            name, source, seed=seed, preset=preset, options=options, train=train, data_options=reading, max_steps=steps, max_time=seconds, out=folder,
            resume=True,
        )  # fmt: skip
        test = mk.load_data(source, options=reading).test
        assert test is not None
        values, _ = losses(fitted.model, test.select(torch.arange(0, len(test), every)))
        mean, stderr = mean_and_error(values)
        size = sum(parameter.numel() for parameter in fitted.model.parameters())
        return {
            "nats": mean, "stderr": stderr, "n": len(values), "seconds": fitted.result["seconds"], "steps": fitted.result["steps"],
            "parameters": size, "values": listed(values),
        }  # fmt: skip

    key = {
        "model": name, "data": source, "reading": reading, "preset": preset, "options": options, "train": train, "seed": seed, "steps": steps,
        "seconds": seconds, "every": every,
    }  # fmt: skip
    return kept(folder.parent / f"{folder.name}{'' if every == 1 else f'-every-{every}'}.json", compute, key=key)


def tell(label: str, row: Mapping[str, Any], unit: float, name: str, note: str = "") -> float:
    """Print one figure in its unit; returns it."""
    value = row["nats"] * unit
    print(
        f"{label:44}{value:>9.3f} ± {row['stderr'] * unit:.3f} {name} (n = {row['n']})  {row['seconds']:>5.0f} s, {row['steps']} steps, "
        f"{row['parameters']:,} parameters{note and '; '}{note}", flush=True,
    )  # fmt: skip
    return float(value)


def ablations(found: Mapping[str, Mapping[str, Any]], unit: float, name: str) -> None:
    """The figures at a fifth of the budget, each beside that of all parts."""
    whole = found["all parts"]["values"]
    for label, row in found.items():
        tell(f"a fifth: {label}", row, unit, name, "" if label == "all parts" else worse(row["values"], whole, unit))


def digits(out: Path, seeds: int, scale: float) -> None:
    """Seeds of the default preset, the floor, and the ablation at a fifth of the steps."""
    bits, steps = 1 / (64 * math.log(2)), max(5, round(scale * DIGITS_STEPS))
    tell("independent pixels (classical floor)", figure(out / "digits-floor", FLOOR, "digits", 0, ({}, {})), bits, "bits/dim")
    found, spent = [], []
    for seed in range(seeds):
        row = figure(out / f"digits-{scale:g}-{seed}", "pixelcnn", "digits", seed, ({}, {}), steps=steps)
        found.append(tell(f"pixelcnn, seed {seed}", row, bits, "bits/dim"))
        spent.append(row["seconds"])
    reached = yes(max(found) <= 1.78 and max(spent) <= DIGITS_LIMIT)
    print(
        f"mean {sum(found) / len(found):.3f}, seeds {min(found):.3f} to {max(found):.3f}, at most {max(spent):.0f} s; "
        f"all seeds reach 1.78 within {DIGITS_LIMIT:.0f} s: {reached}", flush=True,
    )  # fmt: skip
    fifth = max(5, steps // 5)
    places = {label: out / f"digits-{scale:g}-fifth-{slug(label)}" for label in DIGITS_ABLATION}
    rows = {label: figure(places[label], "pixelcnn", "digits", 0, parts, steps=fifth) for label, parts in DIGITS_ABLATION.items()}
    ablations(rows, bits, "bits/dim")


def mnist(out: Path, scale: float, every: int) -> None:
    """Ten minutes of the preset ``cpu`` on MNIST with dynamic binarisation, and the ablation at a fifth of the time."""
    floor = figure(out / "mnist-floor", FLOOR, "mnist", 0, ({}, {}), reading=DYNAMIC, every=every)
    tell("independent pixels (classical floor)", floor, 1.0, "nats")
    budget = scale * MNIST_SECONDS
    row = figure(out / f"mnist-{scale:g}", "pixelcnn", "mnist", 0, ({}, {}), preset="cpu", reading=DYNAMIC, seconds=budget, every=every)
    value = tell("pixelcnn, preset cpu", row, 1.0, "nats")
    reached = yes(value <= 82.3 and row["seconds"] <= MNIST_LIMIT)
    print(f"reach 82.3 within {MNIST_LIMIT:.0f} s: {reached} ({row['seconds']:.0f} s); known: Gated PixelCNN 81.45", flush=True)
    rows = {}
    for label, parts in MNIST_ABLATION.items():
        place = out / f"mnist-{scale:g}-fifth-{slug(label)}"
        rows[label] = figure(place, "pixelcnn", "mnist", 0, parts, preset="cpu", reading=DYNAMIC, seconds=budget / 5, every=every)
    ablations(rows, 1.0, "nats")


def race(side: int, batch: int, repeats: int) -> dict[str, Any]:
    """Medians of equally many draws with the cache and without, in turn and after a cached one to warm up; whether all pictures are the same."""
    torch.manual_seed(0)
    model = PixelCNN(PixelCNNConfig(layers=10, width=32), Image((1, side, side), levels=2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    PixelCNN.sample_block = batch
    spent: dict[bool, list[float]] = {True: [], False: []}
    pictures: list[torch.Tensor] = []
    for use in (True, *(True, False) * repeats):
        begun = time.perf_counter()
        x = model.sample(batch, seed=0, sampler=Decoding(use_cache=use))
        spent[use].append(time.perf_counter() - begun)
        assert isinstance(x, torch.Tensor)
        pictures.append(x)
    del spent[True][0]
    cached, plain = (statistics.median(spent[use]) for use in (True, False))
    return {"cached": cached, "plain": plain, "ratio": plain / cached, "same": all(torch.equal(pictures[0], x) for x in pictures)}


def sampling(out: Path, scale: float, batch: int, repeats: int) -> None:
    """Seconds for a batch of pictures with the cache and without; the pictures must be the same."""
    side = max(4, round(28 * math.sqrt(scale)))
    key = {"side": side, "batch": batch, "repeats": repeats, "threads": torch.get_num_threads()}
    row = kept(out / f"sampling-{side}-{batch}.json", lambda: race(side, batch, repeats), key=key)
    print(
        f"{batch} pictures of {side} x {side}, all pixels on both sides, medians of {repeats} in turn, {key['threads']} threads: cached "
        f"{row['cached']:.3f} s, plain {row['plain']:.2f} s, {row['ratio']:.1f} x; same pictures: {yes(row['same'])}"
    )
    print(f"reach 20 x: {yes(row['same'] and row['ratio'] >= 20)}; known: up to 183 x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", choices=("digits", "mnist", "sampling"), help="all where none is named")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/pixelcnn"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="share of every budget")
    parser.add_argument("--every", type=int, default=1, help="score every so many MNIST test pictures, to try it out")
    parser.add_argument("--batch", type=int, default=16, help="pictures that are drawn at a time")
    parser.add_argument("--repeats", type=int, default=3, help="draws of each side of the race")
    options = parser.parse_args()
    for task in tasks(options.task, ("digits", "mnist", "sampling"), needing=("mnist",)):
        if task == "digits":
            digits(options.out, options.seeds, options.scale)
        elif task == "mnist":
            mnist(options.out, options.scale, options.every)
        else:
            sampling(options.out, options.scale, options.batch, options.repeats)


if __name__ == "__main__":
    main()
