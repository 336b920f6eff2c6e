"""Flows: toys with known entropy, digits and MNIST in bits per dimension, and the time of a training step.

    python benchmarks/flows.py toys                              # three toys, three seeds, nsf, realnvp and a floor; about 40 minutes
    python benchmarks/flows.py digits                            # nsf and realnvp, three seeds; about 15 minutes
    MANYKIN_DATA=DIR python benchmarks/flows.py mnist            # ten minutes of training, ablations at a fifth; about 20 minutes
    python benchmarks/flows.py step                              # a training step beside zuko's, both sides alternately in one run
    python benchmarks/flows.py toys --scale 0.05 --seeds 1       # a twentieth of every budget, to try it out

Every fit has a run folder under ``--out`` and is resumed there, and a finished evaluation is read from it: an interrupted benchmark goes on where it
was. Ablations run at a fifth of the budget, beside all parts at that fifth, and must be worse.

Reach with nsf: a KL gap of 0.05 nats on each toy within 2 minutes; digits below 2.42 bits per dimension within 2 minutes; MNIST 1.02 bits over the
784 pixels within 10 minutes, uniform dequantisation, one draw; a step in at most 0.6 of the time of zuko's coupling flow. Known: a prototype reached
1.021 in 450 seconds; RealNVP 1.06, Glow 1.05 (over padded pixels), Residual Flow 0.97 (Kobyzev, Prince and Brubaker, Normalizing flows, 2020).
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

import manykin as mk
from _kept import kept
from manykin.contract import Batch
from manykin.data.toys import toy
from manykin.models.flows.nsf import NSF, NSFConfig
from manykin.spaces import Vector

TOYS = ("eight-gaussians", "checkerboard", "two-spirals")
FLOORS = {"toys": "gaussian-mixture", "digits": "independent", "mnist": "independent"}
SECONDS = {"toys": 110.0, "digits": 110.0, "mnist": 590.0}
PRESETS = {"toys": "default", "digits": "default", "mnist": "cpu"}
Parts = tuple[dict[str, Any], dict[str, Any]]
ABLATIONS: dict[str, dict[str, Parts]] = {
    "toys": {"all parts": ({}, {}), "two bins": ({"bins": 2}, {}), "two layers": ({"layers": 2}, {})},
    "digits": {"all parts": ({}, {}), "as rows": ({"pictures": "rows"}, {}), "two bins": ({"bins": 2}, {})},
    "mnist": {"all parts": ({}, {}), "as rows": ({"pictures": "rows"}, {}), "narrow networks": ({"channels": 8, "blocks": 1}, {})},
}


@torch.no_grad()
def one_draw(model: mk.Fitted, data: str) -> tuple[float, float]:
    """Bits per dimension of the whole test split with one draw of the dequantisation, and the standard error over rows."""
    test = mk.load_data(data).test
    rows = [model.model.log_prob(test.slice(at, min(at + 250, len(test))).x, seed=at) for at in range(0, len(test), 250)]
    bits = -torch.cat(rows) / (math.prod(model.model.space.shape) * math.log(2))
    return float(bits.mean()), float(bits.std() / math.sqrt(len(bits)))


def fitted(
    task: str, folder: Path, name: str, data: str, seconds: float, seed: int, options: Mapping[str, Any], train: Mapping[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """The figure of one fit with its error and the seconds of training."""

    def compute() -> dict[str, Any]:
        begun, timed = time.perf_counter(), name != FLOORS[task]
        limits: dict[str, Any] = {"max_time": seconds} if timed else {}
        preset = PRESETS[task] if name == "nsf" else "default"
        model = mk.fit(name, data, seed=seed, preset=preset, options=options, train=train, out=folder, resume=True, **limits)
        spent = time.perf_counter() - begun
        if task == "mnist" and timed:
            value, stderr = one_draw(model, data)
            return {"seconds": round(spent, 1), "value": value, "stderr": stderr, "strength": "bound, one draw"}
        wanted = "kl_gap" if task == "toys" else "bits_per_dim"
        found = {each.name: each for each in mk.evaluate(model, metrics="likelihood", seed=seed).metrics}[wanted]
        return {"seconds": round(spent, 1), "value": found.value, "stderr": found.stderr, "strength": found.strength}

    return kept(folder.parent / f"{folder.name}.json", compute)


def show(data: str, label: str, row: Mapping[str, Any]) -> None:
    print(f"{data:18}{label:44}{row['value']:>10.4f} ± {row['stderr'] or 0:.4f}{row['seconds']:>9.0f}", flush=True)


def task(name: str, sets: tuple[str, ...], models: tuple[str, ...], out: Path, seeds: int, scale: float, reach: str) -> None:
    """Every model and the floor on every data set, then the ablations of nsf at a fifth."""
    print(f"{'data':18}{'model':44}{'nats above H' if name == 'toys' else 'bits/dim':>19}{'seconds':>9}   reach {reach}")
    for data in sets:
        if name == "toys":
            print(f"{data:18}entropy {toy(data).entropy:.4f} nats")
        for model in (FLOORS[name], *models):
            for seed in range(1 if model == FLOORS[name] else seeds):
                row = fitted(name, out / f"{data}-{model}-{seed}", model, data, scale * SECONDS[name], seed, {}, {})
                show(data, f"{model} ({'classical floor' if model == FLOORS[name] else row['strength']}), seed {seed}", row)
        for label, (options, train) in ABLATIONS[name].items():
            place = out / f"{data}-ablation-{label.replace(' ', '-')}"
            show(data, f"nsf, a fifth: {label}", fitted(name, place, "nsf", data, scale * SECONDS[name] / 5, 0, options, train))


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
        "zuko RQS in NICE": (plain, lambda: -plain().log_prob(x).mean()),
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=("toys", "digits", "mnist", "step"))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/flows"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="share of every budget of time")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--compile", action="store_true", help="of step: ours compiled as well, which needs a C++ compiler")
    options = parser.parse_args()
    if options.task == "step":
        steps(options.repeats, options.compile)
    elif options.task == "mnist":
        task("mnist", ("mnist",), ("nsf",), options.out, 1, options.scale, "1.02")
    elif options.task == "digits":
        task("digits", ("digits",), ("nsf", "realnvp"), options.out, options.seeds, options.scale, "2.42")
    else:
        task("toys", TOYS, ("nsf", "realnvp"), options.out, options.seeds, options.scale, "0.05")


if __name__ == "__main__":
    main()
