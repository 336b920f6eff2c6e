"""The restricted Boltzmann machine: nats on binarised MNIST by annealed importance sampling, and bits per dimension of the digits.

    MANYKIN_DATA=DIR python benchmarks/rbm.py mnist        # about 7 minutes of training, 1 of the estimate, 5 of ablations, 6 of the second estimate
    python benchmarks/rbm.py digits                        # three seeds of the default preset, with log Z by two numbers of temperatures
    MANYKIN_DATA=DIR python benchmarks/rbm.py mnist --scale 0.02          # a fiftieth of every budget, to try it out

Every fit has a run folder under ``--out`` and is resumed there, and a finished figure is read from it: an interrupted benchmark goes on where it was.
Ablations run at a fifth of the budget, beside all parts at that fifth, and must be worse.

Reach on MNIST, dynamic binarisation, all 10,000 test pictures: 500 hidden units at most 87 nats by 10,000 temperatures and 100 chains with an
effective sample size of at least 20, in 8 minutes. Known: 86.34 by 25 steps of contrastive divergence (Salakhutdinov and Murray, 2008), 105.5
by 3 and 125.5 by 1; a prototype of this recipe reached 86.19 in two minutes. The estimate of log Z is too small on average and the likelihood too
high, by more with few temperatures: several numbers of temperatures, each with draws of its own, stand side by side, and errors hold that of log Z.
Seconds are those of training and of the estimate by the run's own clock, or of the further estimate alone. Floors: independent pixels, about 206
nats, and a mixture of Bernoullis. On the digits (17 levels, split seed 0, 1437/360) independent pixels have 2.43 bits, mixtures 2.48 to 2.55.
"""

import argparse
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import manykin as mk
from _kept import kept, tasks
from manykin.models.energy.rbm import RBM, Gibbs

SECONDS, TEMPERATURES, CHAINS = 400.0, 10_000, 100
ERRORS = "over test rows and of log Z"
"""What is in a figure's error: results written under another rule are computed again from their fit."""
DYNAMIC = {"binarise": "dynamic"}
FLOORS: dict[str, dict[str, Any]] = {"independent": {}, "mixture": {"n_components": 20, "n_init": 1, "init_iter": 2, "max_iter": 12}}
ABLATION: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "all parts": ({}, {}),
    "last weights, constant rate": ({}, {"ema": None, "schedule": "constant"}),
    "plain gradient": ({"centred": False}, {}),
    "CD-1": ({"method": "cd"}, {}),
    "CD-1, plain gradient": ({"method": "cd", "centred": False}, {}),
}


def scored(model: mk.Fitted) -> dict[str, Any]:
    """Test figures of a fit, the seconds of its training with the estimate, and what is known of its constant.

    Errors are those over the test rows (``over_rows``) and, of an estimated constant, that of log Z: all rows share it.
    """
    found = {each.name: each for each in mk.evaluate(model, metrics="likelihood", seed=0).metrics}
    row: dict[str, Any] = {"seconds": round(model.result["seconds"], 1), "strength": found["nll"].strength, "over_rows": {}}
    table = model.parameters_table() if isinstance(model.model, RBM) else {}
    row |= {name: table[name].tolist() for name in table if name.startswith(("log_partition", "effective"))}
    error = row["log_partition_stderr"][0] if table else 0.0
    for name in ("nll", "bits_per_dim"):
        if name in found:
            row["over_rows"][name] = found[name].stderr
            row[name] = [found[name].value, math.hypot(found[name].stderr or 0.0, error / nats_in(model, name))]
    return row


def nats_in(model: mk.Fitted, unit: str) -> float:
    """The nats an example that are one of a unit."""
    return 1.0 if unit == "nll" else math.log(2) * math.prod(model.model.space.shape)


def fitted(
    folder: Path, name: str, data: str, seconds: float | None, seed: int, preset: str, options: Mapping[str, Any], train: Mapping[str, Any]
) -> mk.Fitted:
    """A fit, resumed in its folder."""
    given: dict[str, Any] = {"data_options": DYNAMIC} if data == "mnist" else {}
    train = {**train, "sample_every": 0} if name == "rbm" else train
    return mk.fit(name, data, preset=preset, options=options, train=train, max_time=seconds, seed=seed, out=folder, resume=True, **given)


def show(label: str, row: Mapping[str, Any], unit: str) -> None:
    """One line of the table."""
    value, error = row[unit]
    size = row.get("effective_sample_size")
    text = (
        f"{row['log_partition'][0]:10.2f} [{row['log_partition_lower'][0]:.2f}, {row['log_partition_upper'][0]:.2f}] {size[0]:5.0f}" if size else ""
    )
    print(f"{label:44}{row['strength']:>10}{value:>10.3f} ± {error:.3f}{row['seconds']:>8.0f}  {text}", flush=True)


def again(folder: Path, model: mk.Fitted, row: Mapping[str, Any], temperatures: int, unit: str) -> dict[str, Any]:
    """The same fit with the constant estimated by another number of temperatures, from draws of its own, and the seconds of that estimate."""

    def compute() -> dict[str, Any]:
        assert isinstance(model.model, RBM)
        begun, nats = time.perf_counter(), nats_in(model, unit)
        found = model.model.log_partition(temperatures=temperatures, chains=CHAINS, seed=temperatures)
        moved = row[unit][0] + (found.value - row["log_partition"][0]) / nats
        return {
            "seconds": round(time.perf_counter() - begun, 1), "strength": row["strength"],
            unit: [moved, math.hypot(row["over_rows"][unit], found.stderr / nats)], "log_partition": [found.value],
            "log_partition_lower": [found.lower], "log_partition_upper": [found.upper], "effective_sample_size": [found.ess],
        }  # fmt: skip

    key = {"temperatures": temperatures, "chains": CHAINS, "seed": temperatures, "unit": unit, "row": row[unit]}
    return kept(folder.parent / f"{folder.name}-{temperatures}.json", compute, key=key)


def mnist(out: Path, scale: float) -> None:
    """The floors, the figure at several numbers of temperatures, and the ablation."""
    count = max(20, int(scale * TEMPERATURES))
    print(
        f"{'MNIST, dynamic binarisation':44}{'':>10}{'nats (test)':>18}{'s':>8}  {'log Z':>10} [3 errors] size of {CHAINS}    reach 87, known 86.34"
    )
    for name, options in FLOORS.items():
        folder, options = out / f"mnist-{name}", dict(options)
        if "max_iter" in options:
            options["max_iter"] = max(1, int(scale * options["max_iter"]))
        row = kept(
            out / f"mnist-{name}.json",
            lambda f=folder, n=name, o=options: scored(fitted(f, n, "mnist", None, 0, "default", o, {})), key={"options": options, "errors": ERRORS},
        )  # fmt: skip
        show(f"{name} (classical floor)", row, "nll")
    folder, estimate = out / "mnist-rbm", {"ais_temperatures": count, "ais_chains": CHAINS}
    model = fitted(folder, "rbm", "mnist", scale * SECONDS, 0, "cpu", estimate, {})
    row = kept(out / "mnist-rbm.json", lambda: scored(model), key={"options": estimate, "seconds": scale * SECONDS, "errors": ERRORS})
    show(f"rbm, {count} temperatures", row, "nll")
    for temperatures in (max(20, count // 10), 3 * count):
        show(f"rbm, {temperatures} temperatures", again(folder, model, row, temperatures, "nll"), "nll")
    for label, (options, train) in ABLATION.items():
        folder = out / f"mnist-ablation-{label.replace(' ', '-').replace(',', '')}"
        given = {**estimate, **options}
        row = kept(
            folder.parent / f"{folder.name}.json",
            lambda f=folder, o=given, t=train: scored(fitted(f, "rbm", "mnist", scale * SECONDS / 5, 0, "cpu", o, t)),
            key={"options": given, "train": train, "seconds": scale * SECONDS / 5, "errors": ERRORS},
        )
        show(f"a fifth: {label}", row, "nll")


def distance(model: mk.Fitted) -> dict[str, Any]:
    """Energy distances to the test rows of fresh chains and of those of training: two figures, never one for the other."""
    rows = {}
    for chains in ("fresh", "buffer"):
        found = {each.name: each for each in mk.evaluate(model, metrics="energy", n=360, sampler=Gibbs(chains=chains), seed=0).metrics}
        rows[chains] = [found["energy_distance"].value, found["energy_distance"].stderr]
    return rows


def digits(out: Path, scale: float, seeds: int) -> None:
    """Bits per dimension of the default preset, and what its chains draw."""
    print(f"{'digits, 17 levels':44}{'':>10}{'bits per dim':>18}{'s':>8}  {'log Z':>10} [3 errors] size of {CHAINS}    floor 2.43")
    train = {} if scale == 1 else {"max_steps": max(5, int(2500 * scale))}
    for seed in range(seeds):
        folder = out / f"digits-{seed}"
        model = fitted(folder, "rbm", "digits", None, seed, "default", {}, train)
        row = kept(out / f"digits-{seed}.json", lambda m=model: scored(m), key={"train": train, "errors": ERRORS})
        show(f"rbm, seed {seed}", row, "bits_per_dim")
        more = max(20, int(scale * TEMPERATURES))
        show(f"rbm, seed {seed}, {more} temperatures", again(folder, model, row, more, "bits_per_dim"), "bits_per_dim")
        for chains, (value, error) in kept(out / f"digits-{seed}-chains.json", lambda m=model: distance(m)).items():
            print(f"    energy distance of {chains} chains {value:.4f} ± {error:.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", choices=("mnist", "digits"), help="all where none is given")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/rbm"))
    parser.add_argument("--scale", type=float, default=1.0, help="share of every budget")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    for task in tasks(options.task, ("mnist", "digits"), needing=("mnist",)):
        if task == "mnist":
            mnist(options.out, options.scale)
        else:
            digits(options.out, options.scale, options.seeds)


if __name__ == "__main__":
    main()
