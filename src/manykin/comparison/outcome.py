"""What one fit and its evaluation leave for a comparison: plain JSON, the same from a process of its own and from this one."""

import dataclasses
import time
from typing import Any

import torch

from manykin.comparison.trust import first_line
from manykin.evaluation import evaluate, save_evaluation
from manykin.fitted import Fitted
from manykin.metrics import Evaluation
from manykin.metrics.extractor import Extractor
from manykin.spaces import Labels, Value, count, take

SAMPLES = 256
"""Samples whose drawing is timed."""


def judged(
    fitted: Fitted, metrics: Any = "standard", *, n: int | None = None, k: int | None = None, features: str | Extractor = "own",
    target: str | None = None, seed: int = 0,
) -> tuple[Evaluation, dict[str, Any]]:  # fmt: skip
    """Evaluate a model that was just fitted on the held-out rows of its data, keep the evaluation in its run folder, and sum all up.

    A model that cannot draw samples keeps its likelihood: its speed of sampling is None, and a warning of the evaluation says why.

    Arguments as for :func:`manykin.evaluation.evaluate`.

    Returns:
        The evaluation, and an object with ``model``, ``data``, ``density``, ``steps``, ``max_steps``, ``seconds``, ``stopped``, ``parameters``,
        ``peak_memory_bytes``, ``evaluation`` and ``sampling`` (``n`` and ``seconds``, or None).
    """
    evaluation = evaluate(fitted, metrics=metrics, n=n, k=k, features=features, target=target, seed=seed)
    sampling: dict[str, Any] | None = None
    try:
        sampling = {"n": SAMPLES, "seconds": sampling_seconds(fitted, SAMPLES, seed)}
    except Exception as error:
        told = f"the speed of sampling is not known, for the model cannot draw: {first_line(error)}. Test it with: manykin check."
        evaluation = dataclasses.replace(evaluation, warnings=(*evaluation.warnings, told))
    if fitted.folder is not None:
        save_evaluation(fitted.folder, evaluation)
    return evaluation, {**summed_up(fitted), "evaluation": evaluation.to_json(), "sampling": sampling}


def summed_up(fitted: Fitted) -> dict[str, Any]:
    """What a fit took, as plain JSON."""
    name = str(fitted.provenance.get("name", ""))
    return {
        "model": fitted.name, "data": name, "density": str(fitted.density or "none"), "max_steps": fitted.training.get("max_steps"), **fitted.result
    }  # fmt: skip


def sampling_seconds(fitted: Fitted, n: int, seed: int) -> float:
    """The time of drawing n samples in tensors, after a first draw that is not counted."""
    fitted.model.sample(2, _conditions(fitted, 2), seed=seed)
    condition = _conditions(fitted, n)
    begun = time.perf_counter()
    fitted.model.sample(n, condition, seed=seed)
    return time.perf_counter() - begun


def _conditions(fitted: Fitted, n: int) -> Value | None:
    """Conditions that are no labels come from held-out rows; labels are drawn by the model itself."""
    if fitted.condition is None or isinstance(fitted.condition, Labels) or fitted.data is None:
        return None
    rows = fitted.data.test or fitted.data.train
    known = rows.slice(0, n).condition
    return None if known is None else take(known, torch.arange(n) % count(known))
