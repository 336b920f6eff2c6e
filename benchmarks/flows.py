"""Flows: toys with known entropy, digits and MNIST in bits per dimension, and the time of a training step.

    python benchmarks/flows.py                                   # all tasks; without MANYKIN_DATA all but mnist
    python benchmarks/flows.py toys                              # three toys, three seeds, nsf, realnvp and a floor; about 40 minutes
    python benchmarks/flows.py digits                            # nsf and realnvp, three seeds; about 15 minutes
    MANYKIN_DATA=DIR python benchmarks/flows.py mnist            # ten minutes of training, ablations at a fifth; about 20 minutes
    python benchmarks/flows.py step                              # a training step beside zuko's, both sides alternately in one run
    python benchmarks/flows.py toys --scale 0.05 --seeds 1       # a twentieth of every budget, to try it out

Every fit has a run folder under ``--out`` and is resumed there, and a finished evaluation is read from it: an interrupted benchmark goes on where it
was. Ablations run at a fifth of the budget, beside all parts at that fifth, and must be worse: by how much, with the error of the difference over the
same test examples, and whether that is more than two errors, is printed.

Reach with nsf: a KL gap of 0.05 nats on each toy within 2 minutes; digits below 2.42 bits per dimension within 2 minutes; MNIST 1.02 bits over the
784 pixels within 10 minutes, uniform dequantisation, one draw; a step in at most 0.6 of the time of zuko's coupling flow. Known: a prototype reached
1.021 in 450 seconds; RealNVP 1.06, Glow 1.05 (over padded pixels), Residual Flow 0.97 (Kobyzev, Prince and Brubaker, Normalizing flows, 2020).
Bits per dimension are bounds that tighten with the draws of the dequantisation: their number k stands beside each, and the bound by one draw too. A
limit of time becomes a number of steps once, after a few of them: seconds of training, by the run's own clock, stand beside the limit.
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

import manykin as mk
from _kept import kept, listed, losses, mean_and_error, slug, tasks, worse, yes
from manykin.contract import Batch
from manykin.data.toys import toy
from manykin.models.flows.nsf import NSF, NSFConfig
from manykin.spaces import Vector

TOYS = ("eight-gaussians", "checkerboard", "two-spirals")
FLOORS = {"toys": "gaussian-mixture", "digits": "independent", "mnist": "independent"}
SECONDS = {"toys": 110.0, "digits": 110.0, "mnist": 590.0}
LIMITS = {"toys": 120.0, "digits": 120.0, "mnist": 600.0}
REACH = {"toys": 0.05, "digits": 2.42, "mnist": 1.02}
STEP_REACH = 0.6
COUPLING = "zuko RQS in NICE"
PRESETS = {"toys": "default", "digits": "default", "mnist": "cpu"}
Parts = tuple[dict[str, Any], dict[str, Any]]
ABLATIONS: dict[str, dict[str, Parts]] = {
    "toys": {"all parts": ({}, {}), "two bins": ({"bins": 2}, {}), "two layers": ({"layers": 2}, {})},
    "digits": {"all parts": ({}, {}), "as rows": ({"pictures": "rows"}, {}), "two bins": ({"bins": 2}, {})},
    "mnist": {"all parts": ({}, {}), "as rows": ({"pictures": "rows"}, {}), "narrow networks": ({"channels": 8, "blocks": 1}, {})},
}


def fitted(
    task: str, folder: Path, name: str, data: str, seconds: float, seed: int, options: Mapping[str, Any], train: Mapping[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """The loss of every test row under one fit, their mean and its error, the draws behind it, and the seconds of training."""
    limit = None if name == FLOORS[task] else seconds
    preset = PRESETS[task] if name == "nsf" else "default"

    def compute() -> dict[str, Any]:
        model = mk.fit(name, data, seed=seed, preset=preset, options=options, train=train, max_time=limit, out=folder, resume=True)
        rows = model.test_rows()
        assert rows is not None
        values, draws = losses(model.model, rows, 1 if task == "mnist" else None)
        row: dict[str, Any] = {"seconds": model.result["seconds"], "steps": model.result["steps"]}
        density = model.model.density
        assert density is not None
        row |= {"draws": draws, "strength": f"{density.strength}, k={draws}" if density.noisy else density.strength}
        if draws > 1:
            row["once"] = measured(task, data, losses(model.model, rows, 1)[0])
        return {**row, "figure": measured(task, data, values), "values": listed(values)}

    key = {"model": name, "data": data, "preset": preset, "options": dict(options), "train": dict(train), "seconds": limit, "seed": seed}
    return kept(folder.parent / f"{folder.name}.json", compute, key=key)


def measured(task: str, data: str, values: torch.Tensor) -> list[float]:
    """The mean loss above the entropy of a toy, or in bits per dimension of pictures, and its error."""
    mean, error = mean_and_error(values)
    if task == "toys":
        return [mean - toy(data).entropy, error]
    return [bit(data) * mean, bit(data) * error]


def bit(data: str) -> float:
    """Bits per dimension of one nat."""
    return 1 / (math.prod(mk.load_data(data).space.shape) * math.log(2))


def show(data: str, label: str, row: Mapping[str, Any], note: str = "") -> None:
    """One line of the table."""
    (value, error), once = row["figure"], row.get("once")
    single = "" if once is None else f"{once[0]:.4f} ± {once[1]:.4f}"
    print(f"{data:18}{label:44}{value:>10.4f} ± {error:.4f}{single:>19}{row['seconds']:>9.0f}   {note}", flush=True)


def task(name: str, sets: tuple[str, ...], models: tuple[str, ...], out: Path, seeds: int, scale: float) -> None:
    """Every model and the floor on every data set, then the ablations of nsf at a fifth."""
    reach, limit = REACH[name], LIMITS[name]
    print(f"{'data':18}{'model':44}{'nats above H' if name == 'toys' else 'bits/dim':>19}{'by one draw':>19}{'seconds':>9}")
    for data in sets:
        if name == "toys":
            print(f"{data:18}entropy {toy(data).entropy:.4f} nats")
        for model in (FLOORS[name], *models):
            floor, found = model == FLOORS[name], []
            for seed in range(1 if floor else seeds):
                place = out / slug(data, model, *(() if floor else (f"{scale:g}",)), seed)
                row = fitted(name, place, model, data, scale * SECONDS[name], seed, {}, {})
                note = f"reach {reach} within {limit:.0f} s: {yes(reached(name, row))}" if model == "nsf" else ""
                show(data, f"{model} ({'classical floor' if floor else row['strength']}), seed {seed}", row, note)
                found.append(row)
            if len(found) > 1:
                values = [row["figure"][0] for row in found]
                told = f"; all reach {reach} within {limit:.0f} s: {yes(all(reached(name, row) for row in found))}" if model == "nsf" else ""
                print(f"{data:18}{model}: mean {sum(values) / len(values):.4f}, seeds {min(values):.4f} to {max(values):.4f}{told}", flush=True)
        ablations(name, data, out, scale)


def reached(name: str, row: Mapping[str, Any]) -> bool:
    """Whether a fit is as good as is to be reached, in time; the digits are to be below their figure."""
    value = row["figure"][0]
    return bool((value < REACH[name] if name == "digits" else value <= REACH[name]) and row["seconds"] <= LIMITS[name])


def ablations(name: str, data: str, out: Path, scale: float) -> None:
    """nsf without its parts at a fifth of the budget, beside all parts."""
    whole: list[float] = []
    for label, (options, train) in ABLATIONS[name].items():
        place = out / slug(data, f"{scale:g}", "fifth", label)
        row = fitted(name, place, "nsf", data, scale * SECONDS[name] / 5, 0, options, train)
        whole = whole or row["values"]
        unit = 1.0 if name == "toys" else bit(data)
        show(data, f"nsf ({row['strength']}), a fifth: {label}", row, "" if label == "all parts" else worse(row["values"], whole, unit))


def stepper(network: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """One training step."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def steps(repeats: int, compiling: bool) -> None:
    """8 entries, 8 layers, 16 bins, 2 x 128 hidden units, batch 512: ours and both coupling flows of zuko, in turn.

    ``compiling``: ours through torch.compile too."""
    from zuko.flows import NSF as Masked
    from zuko.flows.coupling import NICE
    from zuko.transforms import MonotonicRQSTransform

    size, layers, bins, hidden = 8, 8, 16, (128, 128)
    x = torch.randn(512, size)
    ours = NSF(NSFConfig(layers=layers, bins=bins, hidden=hidden), Vector(size))
    masked = Masked(size, transforms=layers, bins=bins, hidden_features=hidden, passes=2)
    plain = NICE(
        size, transforms=layers, univariate=MonotonicRQSTransform, shapes=[(bins,), (bins,), (bins - 1,)], hidden_features=hidden
    )  # fmt: skip
    compiled = NSF(NSFConfig(layers=layers, bins=bins, hidden=hidden), Vector(size))
    sides: dict[str, tuple[torch.nn.Module, Callable[[], torch.Tensor]]] = {
        "zuko NSF, passes=2": (masked, lambda: -masked().log_prob(x).mean()),
        COUPLING: (plain, lambda: -plain().log_prob(x).mean()),
        "manykin nsf": (ours, lambda: ours.loss(Batch(x)).mean()),
    }
    if compiling:
        quick = torch.compile(compiled._log_prob)
        begun = time.perf_counter()
        (-quick(x, None).mean()).backward()
        print(f"torch.compile starts in {time.perf_counter() - begun:.0f} s", flush=True)
        sides["manykin nsf, compiled"] = (compiled, lambda: -quick(x, None).mean())
    runs = {label: stepper(*side) for label, side in sides.items()}
    spent: dict[str, list[float]] = {label: [] for label in runs}
    for index in range(5 + repeats):
        for label, step in runs.items():
            begun = time.perf_counter()
            step()
            if index >= 5:
                spent[label].append(time.perf_counter() - begun)
    medians = {label: float(torch.tensor(each).median()) for label, each in spent.items()}
    for label, seconds in medians.items():
        shares = ", ".join(f"{seconds / medians[peer]:.2f} of {peer}" for peer in medians if peer.startswith("zuko") and peer != label)
        size_of = sum(p.numel() for p in sides[label][0].parameters())
        print(f"{label:24}{1000 * seconds:8.1f} ms   {size_of:>9,} parameters   {shares}")
    share = medians["manykin nsf"] / medians[COUPLING]
    print(f"medians of {repeats} steps in turn; at most {STEP_REACH} of {COUPLING}: {yes(share <= STEP_REACH)} ({share:.2f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", choices=("toys", "digits", "mnist", "step"), help="all where none is named")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/flows"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="share of every budget of time")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--compile", action="store_true", help="of step: ours compiled as well, which needs a C++ compiler")
    options = parser.parse_args()
    for name in tasks(options.task, ("toys", "digits", "mnist", "step"), needing=("mnist",)):
        if name == "step":
            steps(options.repeats, options.compile)
        elif name == "mnist":
            task("mnist", ("mnist",), ("nsf",), options.out, 1, options.scale)
        elif name == "digits":
            task("digits", ("digits",), ("nsf", "realnvp"), options.out, options.seeds, options.scale)
        else:
            task("toys", TOYS, ("nsf", "realnvp"), options.out, options.seeds, options.scale)


if __name__ == "__main__":
    main()
