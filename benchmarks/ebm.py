"""The energy-based model: toys with known entropy, normalised on a grid, and digits from fresh chains and from those of training.

    python benchmarks/ebm.py toys                           # two toys, three seeds, a floor and an ablation; about 20 minutes
    python benchmarks/ebm.py digits                         # three seeds of two minutes, an ablation, samples judged and log Z; about 15 minutes
    python benchmarks/ebm.py toys --scale 0.05 --seeds 1    # a twentieth of every budget, to try it out

Every fit has a run folder under ``--out`` and is resumed there, and a finished evaluation is read from it: an interrupted benchmark goes on where it
was. Ablations run at a fifth of the budget, beside all parts at that fifth.

Reach: KL gaps of 0.10 nats on eight Gaussians and of 0.25 on the checkerboard within 2 minutes; on the digits (split 1437/360) recognisable samples
of all ten classes, from fresh chains as from the buffer. Known: no leaderboard. Picture models of this kind are often scored on chains of training,
which flatters them, hence both stand here. The bits per dimension are an optimistic estimate, since log Z by annealed importance sampling is too
small on average; two numbers of temperatures, each with draws of its own, show how far they agree. Seconds of fits are those of training by the
run's own clock. Floors: a Gaussian mixture on toys, and independent pixels at 2.43 bits on
the digits.
"""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import manykin as mk
from _kept import kept, tasks
from manykin.contract import Sampler
from manykin.data.toys import toy
from manykin.mcmc.hmc import HMC
from manykin.mcmc.langevin import Langevin
from manykin.metrics.estimate import Estimate
from manykin.metrics.likelihoods import likelihood
from manykin.models.energy.ebm import EBM

REACH = {"eight-gaussians": 0.10, "checkerboard": 0.25}
FLOOR = "gaussian-mixture"
SECONDS = 110.0
ABLATIONS: dict[str, dict[str, Any]] = {
    "all parts": {},
    "no buffer: chains begin anew at each step": {"buffer": 0},
    "no leaps": {"leap_every": 0},
    "a tenth of Langevin's noise, nothing refused": {"temperature": 0.01, "metropolis": False},
}
PICTURE_ABLATIONS: dict[str, dict[str, Any]] = {
    "all parts": {},
    "no buffer: chains begin anew at each step": {"buffer": 0},
    "reference without correlations": {"covariance": "diagonal"},
}
SAMPLERS: dict[str, Sampler | None] = {
    "fresh chains": None,
    "chains of the buffer": Langevin(steps=1, leap_every=0, chains="buffer"),
    "fresh chains by HMC": HMC(steps=80, leap_every=0),
}
FIGURES = ("confident_share", "class_coverage", "energy_distance", "kernel_distance")
TEMPERATURES, CHAINS = (1000, 4000), 200


def place(out: Path, *parts: object) -> Path:
    """A run folder's path."""
    return out / "-".join(str(part).replace(" ", "-").replace(",", "").replace(":", "").replace("'", "") for part in parts)


def gap(folder: Path, name: str, data: str, seconds: float, seed: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """The KL gap of one fit to one toy, with its error and the seconds of training."""

    def compute() -> dict[str, Any]:
        limit = None if name == FLOOR else seconds
        train = {} if name == FLOOR else {"max_steps": 1_000_000}
        model = mk.fit(name, data, seed=seed, options=options, train=train, max_time=limit, out=folder, resume=True)
        found = {each.name: each for each in mk.evaluate(model, metrics="likelihood", seed=seed).metrics}["kl_gap"]
        spent = round(model.result["seconds"], 1)
        return {"seconds": spent, "value": found.value, "stderr": found.stderr, "strength": found.strength, "entropy": toy(data).entropy}

    key = {"seconds": seconds, "options": dict(options), "seed": seed, "clock": "of the run"}
    return kept(folder.parent / f"{folder.name}.json", compute, key=key)


def toys(out: Path, seeds: int, scale: float) -> None:
    """KL gaps of the model and the floor on both toys, and the ablation."""
    print(f"{'toy':18}{'model':58}{'KL gap, nats':>18}{'seconds':>9}{'reach':>8}")
    for data, reach in REACH.items():
        rows = [(f"{name}, seed {seed}", name, scale * SECONDS, seed, {}) for name in (FLOOR, "ebm") for seed in range(seeds)]
        rows += [(f"a fifth: {label}", "ebm", scale * SECONDS / 5, 0, options) for label, options in ABLATIONS.items()]
        for label, name, seconds, seed, options in rows:
            row = gap(place(out, data, label), name, data, seconds, seed, options)
            text = f"{label} ({'classical floor' if name == FLOOR else row['strength']})"
            print(f"{data:18}{text:58}{row['value']:>10.3f} ± {row['stderr']:.3f}{row['seconds']:>9.0f}{reach:>8.2f}", flush=True)


def judged(folder: Path, model: mk.Fitted, label: str, n: int) -> dict[str, Any]:
    """The figures of n samples by one sampler, and the seconds that drawing and judging took."""

    def compute() -> dict[str, Any]:
        begun = time.perf_counter()
        found = mk.evaluate(model, metrics=["classes", "energy", "kernel"], n=n, features="own", sampler=SAMPLERS[label], seed=0)
        rows = {each.name: [each.value, each.stderr] for each in found.metrics}
        return {"seconds": round(time.perf_counter() - begun, 1), "rows": rows}

    return kept(folder.parent / f"{folder.name}-{label.replace(' ', '-')}.json", compute)


def bits(folder: Path, model: mk.Fitted, temperatures: int) -> dict[str, Any]:
    """Bits per dimension of the test rows with log Z by annealed importance sampling, and what that says of itself: the error holds that of log Z."""

    def compute() -> dict[str, Any]:
        inner = cast(EBM, model.model)
        z = inner.log_partition(temperatures=temperatures, chains=CHAINS, seed=temperatures)
        test = mk.load_data("digits").test
        assert test is not None
        constant = Estimate("log Z", z.value, z.stderr, "nats", "estimate", z.chains)
        found = {each.name: each for each in likelihood(inner, test, log_normaliser=constant)}["bits_per_dim"]
        return {"value": found.value, "stderr": found.stderr, "log_z": str(z), "ess": z.ess}

    key = {"chains": CHAINS, "seed": temperatures, "errors": "over test rows and of log Z", "fit": model.result["steps"]}
    return kept(folder.parent / f"{folder.name}-log-z-{temperatures}.json", compute, key=key)


def digits(out: Path, seeds: int, scale: float, n: int) -> None:
    """Two minutes on the digits: fresh and buffer chains judged apart, bits per dimension, and the ablation."""
    print(f"{'model':60}" + "".join(f"{name:>22}" for name in FIGURES) + f"{'seconds':>9}")
    runs = [(f"seed {seed}", scale * SECONDS, seed, {}, tuple(SAMPLERS)) for seed in range(seeds)]
    runs += [(f"a fifth: {label}", scale * SECONDS / 5, 0, options, ("fresh chains",)) for label, options in PICTURE_ABLATIONS.items()]
    for label, seconds, seed, options, samplers in runs:
        folder = place(out, "digits", label)
        model = mk.fit(
            "ebm", "digits", seed=seed, options=options, train={"max_steps": 1_000_000}, max_time=seconds, out=folder, resume=True
        )  # fmt: skip
        for sampler in samplers:
            found = judged(folder, model, sampler, n)
            show(f"{label}, {sampler}", found["rows"], "", found["seconds"])
        if len(samplers) > 1:
            show("real pictures (floor)", found["rows"], "_floor", None)
            for temperatures in TEMPERATURES:
                z = bits(folder, model, temperatures)
                print(f"  {z['value']:.3f} ± {z['stderr']:.3f} bits/dim (estimate); log Z {z['log_z']}", flush=True)


def show(label: str, rows: Mapping[str, Any], suffix: str, seconds: float | None) -> None:
    """One line of the table."""
    cells = [rows.get(name + suffix) for name in FIGURES]
    text = "".join(f"{'-' if cell is None else f'{cell[0]:.4f} ± {cell[1] or 0:.4f}':>22}" for cell in cells)
    print(f"{label:60}{text}{'' if seconds is None else f'{seconds:>9.0f}'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", choices=("toys", "digits"), help="all where none is given")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/ebm"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="share of every budget of time")
    parser.add_argument("--n", type=int, default=1000, help="samples that are judged")
    options = parser.parse_args()
    for task in tasks(options.task, ("toys", "digits")):
        if task == "toys":
            toys(options.out, options.seeds, options.scale)
        else:
            digits(options.out, options.seeds, options.scale, options.n)


if __name__ == "__main__":
    main()
