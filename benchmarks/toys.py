"""How far every model with a density is from the truth on the two-dimensional toys.

Each toy's entropy H is known, so KL(data || model) = nll - H is measured on held-out rows, in nats: 0 is perfect, and the columns of a table may
be read against each other. A bound over-states the gap. Models whose default preset cannot finish in the time given are cut at ``--max-time``.

    python benchmarks/toys.py                                # all models, all toys
    python benchmarks/toys.py --models realnvp vae --toys two-moons eight-gaussians --max-time 20

Expected after a minute or two of one core, for affine couplings: gaps of 0.1 to 0.3 on separated modes, where bridges remain, and near 0.02 on
connected shapes. The floor is ``gaussian``, which knows a mean and a covariance only.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import manykin as mk
from manykin.data.toys import toy
from manykin.errors import ManykinError
from manykin.models import get, names
from manykin.spaces import Vector

TOYS = (
    "box", "circle", "noisy-disc", "blobs", "two-moons", "eight-gaussians", "25-gaussians", "checkerboard", "pinwheel", "two-spirals",
)  # fmt: skip


def with_density() -> list[str]:
    """The models that take 2-D vectors and have a density."""
    found = []
    for name in names():
        try:
            model = get(name)(None, Vector(2))
        except (ManykinError, ImportError, AttributeError):
            continue
        if model.density is not None and model.density.normalised:
            found.append(name)
    return found


def measure(model: str, data: str, preset: str, max_time: float | None, seed: int) -> dict[str, Any]:
    """Fit, evaluate, and keep the gap with its error, strength and time; or the reason why there is none."""
    begun = time.perf_counter()
    try:
        fitted = mk.fit(model, data, preset=preset, max_time=max_time, seed=seed)
        seconds = time.perf_counter() - begun
        gap = next(metric for metric in mk.evaluate(fitted, seed=seed).metrics if metric.name == "kl_gap")
    except ManykinError as error:
        return {"model": model, "data": data, "error": str(error).splitlines()[0]}
    return {"model": model, "data": data, "entropy": toy(data).entropy, "seconds": round(seconds, 2), **gap.to_json()}


def table(results: list[dict[str, Any]]) -> str:
    """One row a model, one column a toy."""
    toys = list(dict.fromkeys(result["data"] for result in results))
    lines = ["| model | " + " | ".join(toys) + " | seconds |", "| --- |" + " --- |" * (len(toys) + 1)]
    for model in dict.fromkeys(result["model"] for result in results):
        rows = {result["data"]: result for result in results if result["model"] == model}
        seconds = sum(row.get("seconds", 0.0) for row in rows.values())
        lines.append(f"| {model} | " + " | ".join(_cell(rows.get(name)) for name in toys) + f" | {seconds:.0f} |")
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None or "error" in row:
        return "-"
    if row["value"] is None:
        return "infinite"
    return f"{row['value']:.3f} ± {row['stderr'] or 0:.3f}" + (" (bound)" if row["strength"] == "bound" else "")


def main() -> None:
    parser = argparse.ArgumentParser(description="KL gap to the known entropy of 2-D toys.")
    parser.add_argument("--models", nargs="+", default=None, help="default: every model with a density")
    parser.add_argument("--toys", nargs="+", default=list(TOYS), choices=TOYS)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--max-time", type=float, default=None, help="seconds of training a model and toy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="a JSON file for the results")
    arguments = parser.parse_args()
    results = []
    for data in arguments.toys:
        for model in arguments.models or with_density():
            results.append(measure(model, data, arguments.preset, arguments.max_time, arguments.seed))
            print(f"{data:16s} {model:18s} {results[-1].get('error') or _cell(results[-1])}", flush=True)
            if arguments.out is not None:
                arguments.out.write_text(json.dumps(results, indent=2))
    print(table(results))


if __name__ == "__main__":
    main()
