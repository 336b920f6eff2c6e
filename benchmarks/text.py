"""Character models of tinyshakespeare: nats per character on the last tenth, beside published figures and the n-gram floor.

    MANYKIN_DATA=... python benchmarks/text.py                          # every task that this machine can do; on two cores about an hour
    MANYKIN_DATA=... python benchmarks/text.py --tasks quick nanogpt --seeds 1
    MANYKIN_DATA=... python benchmarks/text.py --scale 0.05             # a twentieth of every budget, to try it out

The text is split contiguously, 90/10, and the last tenth is scored once, at the end, in non-overlapping blocks of the model's own context: every
character counts, those at the cold start of a block too. Known: nanoGPT's CPU configuration 1.88, its GPU configuration 1.4697 on an A100 (Karpathy,
nanoGPT, README; both over random blocks whose first character is given: beside our figure stands what is left without those, and nanoGPT's recipe
is judged by that). Floor: Kneser-Ney n-grams, computed here with one discount an order; with three
discounts the 7-gram has 1.5165. The ablation takes parts away at a fifth of the budget: each must be worse than all parts at that fifth, and by how
much, with the error of the difference over the same blocks, and whether that is more than two errors, is printed. A limit of time becomes a number
of steps once, after a few of them: seconds of training, by the run's own clock, stand beside the limit.

Every fit has a run folder under ``--out`` and is resumed there, so an interrupted benchmark goes on where it was. Everything here needs the text.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import manykin as mk
from _kept import losses, worse, yes
from manykin.errors import InvalidInput


@dataclass(frozen=True)
class Task:
    """A preset of gpt, the context, the seconds of training (None: the preset's own steps), and what is to be reached within how many seconds."""

    preset: str
    length: int
    seconds: float | None
    reach: float
    limit: float
    known: str
    seeds: int = 1
    cuda: bool = False
    given: bool = False
    train: Mapping[str, Any] = field(default_factory=dict)


TASKS = {
    "quick": Task("quick", 64, 16.0, 1.88, 20.0, "nanoGPT's CPU configuration 1.88", seeds=3),
    "nanogpt": Task("nanogpt", 64, None, 1.91, math.inf, "nanoGPT 1.88, within 0.03", seeds=3, given=True),
    "cpu": Task("cpu", 256, 570.0, 1.50, 600.0, "7-gram 1.5165; nanoGPT on an A100 1.4697"),
    "gpu": Task("gpu", 256, 220.0, 1.48, 240.0, "nanoGPT on an A100 1.4697", cuda=True),
    "nanogpt-gpu": Task("nanogpt-gpu", 256, None, 1.48, 240.0, "nanoGPT on an A100 1.4697", cuda=True, train={"eval_every": 250}),
}
ABLATION: dict[str, dict[str, Any]] = {
    "all parts": {},
    "no runs of symbols": {"grams": 1},
    "no run hidden": {"gram_dropout": 0.0},
    "AdamW instead of Muon": {"optimizer": "adamw"},
    "learned positions": {"positions": "learned"},
    "GELU": {"activation": "gelu"},
    "no normalised queries and keys": {"qk_norm": False},
    "no dropout": {"dropout": 0.0},
    "nanoGPT's parts": {
        "grams": 1,
        "positions": "learned",
        "norm": "layer",
        "activation": "gelu",
        "qk_norm": False,
        "tie": True,
        "optimizer": "adamw",
    },
}


def text_file() -> Path:
    """The text, below one of the folders of MANYKIN_DATA."""
    for folder in os.environ.get("MANYKIN_DATA", "").split(os.pathsep):
        file = Path(folder) / "tinyshakespeare" / "input.txt"
        if folder and file.is_file():
            return file
    raise SystemExit("tinyshakespeare/input.txt is in no folder of MANYKIN_DATA.")


def fit(
    preset: str, length: int, seconds: float | None, steps: int | None, seed: int, out: Path, options: Mapping[str, Any], train: Mapping[str, Any]
) -> Any:
    """A model fitted to the first nine tenths, from its run folder where it is there already."""
    return mk.fit(
        "gpt", text_file(), preset=preset, options=options, train=dict(train), data_options={"length": length, "val": 0.0}, max_time=seconds,
        max_steps=steps, seed=seed, out=out, resume=True,
    )  # fmt: skip


def score(fitted: Any) -> Tensor:
    """Nats and characters of each block of the last tenth, (n, 2)."""
    x = fitted.data.test.all().x
    nats, _ = losses(fitted.model, fitted.data.test)
    return torch.stack([nats, fitted.model.space.dims(x).double()], dim=1)


@torch.no_grad()
def first_given(fitted: Any) -> float:
    """Nats per character of the same blocks but for their first characters, which are given: the rule of nanoGPT."""
    x = fitted.data.test.all().x
    return float(torch.cat([-fitted.model.log_conditionals(part)[:, 1:] for part in x.split(256)]).mean())


def per_character(blocks: Tensor) -> tuple[float, float]:
    """Nats per character, and their standard error over blocks: that of a ratio, by the delta method."""
    nats, size = blocks.unbind(1)
    mean = float(nats.sum() / size.sum())
    return mean, float((nats - mean * size).std() / size.mean() / math.sqrt(len(blocks)))


def kneser_ney(order: int) -> float:
    """Nats per character of an interpolated Kneser-Ney n-gram (Kneser and Ney, Improved backing-off for m-gram language modeling, 1995).

    ``p_k(x | h) = max(c(hx) - D, 0) / c(h) + D n(h) / c(h) p_(k-1)(x | h')`` with c the counts at the highest order and below it the number of
    different symbols in front, n(h) the number of different symbols behind, and ``D = n1 / (n1 + 2 n2)``.
    """
    text = text_file().read_text(encoding="utf-8")
    symbols = sorted(set(text))
    codes = np.searchsorted(symbols, list(text)).astype(np.int64)
    base, cut = len(symbols), round(len(text) * 0.9)
    train, places = codes[:cut], np.arange(cut, len(codes))
    chance = np.full(len(places), 1.0 / base)
    for k in range(1, order + 1):
        grams = _keys(train, k, base, np.arange(k - 1, len(train)))
        if k < order:
            wider = np.unique(_keys(train, k + 1, base, np.arange(k, len(train))))
            grams = wider % base**k
        keys, counts = np.unique(grams, return_counts=True)
        discount = float((counts == 1).sum() / max((counts == 1).sum() + 2 * (counts == 2).sum(), 1))
        heads, starts = np.unique(keys // base, return_index=True)
        totals, kinds = np.add.reduceat(counts, starts), np.diff(np.append(starts, len(keys)))
        wanted = _keys(codes, k, base, places)
        count = _lookup(keys, counts, wanted)
        total, kind = _lookup(heads, totals, wanted // base), _lookup(heads, kinds, wanted // base)
        with np.errstate(divide="ignore", invalid="ignore"):
            mixed = np.maximum(count - discount, 0) / total + discount * kind / total * chance
        chance = np.where(total > 0, mixed, chance)
    return float(-np.log(chance).mean())


def _keys(codes: np.ndarray, k: int, base: int, ends: np.ndarray) -> np.ndarray:
    """The k symbols that end at each place, as one number, the last symbol last."""
    keys = np.zeros(len(ends), dtype=np.int64)
    for back in range(k - 1, -1, -1):
        keys = keys * base + codes[ends - back]
    return keys


def _lookup(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0).astype(float)


def run_task(name: str, seeds: int | None, scale: float, out: Path) -> list[dict[str, Any]]:
    """Every seed of a task; a line each."""
    task, rows = TASKS[name], []
    for seed in range(seeds or task.seeds):
        limit = None if task.seconds is None else task.seconds * scale
        steps = None if task.seconds is not None or scale == 1 else max(60, round(2000 * scale))
        fitted = fit(task.preset, task.length, limit, steps, seed, out / f"{name}-{scale:g}-{seed}", {}, task.train)
        value, stderr = per_character(score(fitted))
        row = {
            "task": name, "seed": seed, "nats": value, "stderr": stderr, "first_given": first_given(fitted), "steps": fitted.result["steps"],
            "seconds": fitted.result["seconds"],
        }  # fmt: skip
        rows.append(row)
        print(
            f"{name:12} seed {seed}: {value:.4f} ± {stderr:.4f} nats/char ({row['first_given']:.4f} with each block's first character given) after "
            f"{row['steps']} steps, {row['seconds']:.0f} s", flush=True,
        )  # fmt: skip
    values = [row["first_given" if task.given else "nats"] for row in rows]
    spent = max(row["seconds"] for row in rows)
    reached = yes(max(values) <= task.reach and spent <= task.limit)
    within = "" if math.isinf(task.limit) else f" within {task.limit:.0f} s"
    print(
        f"{name:12} mean {np.mean(values):.4f}, seeds {min(values):.4f} to {max(values):.4f}, at most {spent:.0f} s; all seeds reach {task.reach}"
        f"{within}: {reached}; known: {task.known}", flush=True,
    )  # fmt: skip
    return rows


def run_ablation(scale: float, out: Path) -> list[dict[str, Any]]:
    """Parts taken away from the preset ``cpu`` at a fifth of its time."""
    rows: list[dict[str, Any]] = []
    task, whole = TASKS["cpu"], torch.zeros(0)
    for label, options in ABLATION.items():
        folder = out / f"ablation-{scale:g}-{label.replace(' ', '-').replace(chr(39), '')}"
        options, train = dict(options), {}
        if (optimizer := options.pop("optimizer", None)) is not None:
            train = {"optimizer": optimizer, "lr": 1e-3}
        seconds = None if task.seconds is None else task.seconds / 5 * scale
        fitted = fit(task.preset, task.length, seconds, None, 0, folder, options, train)
        blocks = score(fitted)
        whole = whole if len(whole) else blocks
        (value, stderr), spent = per_character(blocks), fitted.result["seconds"]
        rows.append({"task": "ablation", "without": label, "nats": value, "stderr": stderr, "seconds": spent})
        note = "" if label == "all parts" else worse(blocks[:, 0].tolist(), whole[:, 0].tolist(), 1 / float(blocks[:, 1].mean()))
        print(f"ablation     {label:32} {value:.4f} ± {stderr:.4f} nats/char after {spent:.0f} s  {note}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="*", choices=[*TASKS, "floor", "ablation"], help="all that this machine can do where none is named")
    parser.add_argument("--seeds", type=int, help="how many seeds; three for tasks of two minutes or less, else one")
    parser.add_argument("--scale", type=float, default=1.0, help="share of every budget")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/text"), help="where the run folders and results.json are")
    options = parser.parse_args()
    if not options.tasks and not os.environ.get("MANYKIN_DATA"):
        print("the text is left out: it needs tinyshakespeare/input.txt in the folder that MANYKIN_DATA names, and that is not set.")
        return
    chosen = options.tasks or ["floor", *(name for name, task in TASKS.items() if not task.cuda or torch.cuda.is_available()), "ablation"]
    rows: list[dict[str, Any]] = []
    for name in chosen:
        if name == "floor":
            for order in (3, 5, 7):
                begun = time.perf_counter()
                rows.append({"task": "floor", "order": order, "nats": kneser_ney(order)})
                print(f"floor        {order}-gram {rows[-1]['nats']:.4f} nats/char in {time.perf_counter() - begun:.1f} s", flush=True)
        else:
            try:
                rows += run_ablation(options.scale, options.out) if name == "ablation" else run_task(name, options.seeds, options.scale, options.out)
            except InvalidInput as error:
                print(f"{name}: {error}", flush=True)
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "results.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
