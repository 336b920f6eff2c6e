"""Validation: one number, smaller is better, that does not depend on when it is asked for."""

import math

import torch

from manykin.contract import Batch, GenerativeModel
from manykin.data.dataset import Rows
from manykin.random import hash_seed
from manykin.spaces import Value, count, take

ROWS = 10_000
"""Rows that a validation looks at, at most."""

BLOCK = 1024


class Validation:
    """Mean of minus the log-likelihood (``val_nll``) where the model has a normalised one, else of a loss (``val_loss``), under fixed seeds.

    A likelihood that is off by an unknown amount is not taken where there is a loss: it is the result of an integrator, and dearer than training.
    """

    def __init__(self, model: GenerativeModel, rows: Rows, loss: str | None, seed: int) -> None:
        self.model = model
        self.seed = seed
        density = model.density
        known = density is not None and density.normalised and (density.bias != "unknown" or loss is None)
        self.name = "val_nll" if known else "val_loss" if loss is not None else ""
        self.loss = getattr(model, loss) if self.name == "val_loss" and loss is not None else None
        self.batch = rows.sample(ROWS, hash_seed(seed, "validation"))

    def __call__(self) -> float:
        """The metric now. Seeds, modes and buffers are afterwards as they were before."""
        total, n = 0.0, count(self.batch.x)
        before = {} if self.loss is None else {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        for start in range(0, n, BLOCK):
            rows = slice(start, min(start + BLOCK, n))
            batch = Batch(take(self.batch.x, rows), self._conditions(rows)).to(self.model.device)
            with self.model.evaluating(hash_seed(self.seed, "validation", start)):
                total += self._sum(batch)
        with torch.no_grad():
            buffers = dict(self.model.named_buffers()) if before else {}
            for name, value in before.items():
                buffers[name].copy_(value)
        return total / n if math.isfinite(total) else math.inf

    def _sum(self, batch: Batch) -> float:
        if self.loss is not None:
            # Some losses differentiate inside: score matching, gradient penalties.
            with torch.enable_grad():
                return float(self.loss(batch).detach().double().sum())
        with torch.no_grad():
            z, ldj = self.model.to_model_space(batch.x)
            return -float((self.model._log_prob(z, batch.condition).double() + ldj).sum())

    def _conditions(self, rows: slice) -> Value | None:
        return None if self.batch.condition is None else take(self.batch.condition, rows)
