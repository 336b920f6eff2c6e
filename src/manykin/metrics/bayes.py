"""A conditional density as a classifier: Bayes' rule over its classes."""

from collections.abc import Callable

import torch
from torch import Tensor

from manykin.contract import GenerativeModel
from manykin.data.dataset import Rows
from manykin.metrics.draws import CHUNK_ENTRIES, MAX_CHUNK
from manykin.metrics.likelihoods import MARGINAL_CLASSES, default_draws, log_likelihoods
from manykin.random import hash_seed
from manykin.spaces import Labels, Value, count, take

MOST_DRAWS = 16
"""Draws an example and class where the likelihood is noisy."""


def bayes_rule(model: GenerativeModel, seed: int = 0) -> Callable[[Value], Tensor] | None:
    r"""The model's own classifier: :math:`\log p(c | x) = \log p(x | c) + \log p(c) + \text{const}`, p(c) the frequencies in training.

    The generative side of A. Y. Ng and M. I. Jordan, On discriminative vs. generative classifiers, 2001. A lower bound of log p(x | c) is used as if
    it were exact.

    Returns:
        A function from examples to log-posteriors up to a constant a row, shape (n, classes) float64 on the CPU; None where the model is not
        conditional on 2 to 100 classes or has no normalised density.
    """
    condition, density = model.condition, model.density
    if not isinstance(condition, Labels) or not 2 <= condition.classes <= MARGINAL_CLASSES or density is None or not density.normalised:
        return None
    classes = condition.classes

    @torch.no_grad()
    def classify(x: Value) -> Tensor:
        draws = min(default_draws(model, Rows(x)), MOST_DRAWS)
        size = min(max(CHUNK_ENTRIES // (torch.Size(model.space.shape).numel() * draws), 1), MAX_CHUNK)
        prior = model.condition_frequencies.detach().to("cpu", torch.float64).log()
        parts = []
        for start in range(0, count(x), size):
            part, key = take(x, slice(start, start + size)), hash_seed(seed, "bayes", start)
            terms = [log_likelihoods(model, part, torch.tensor([label]), draws=draws, seed=key) for label in range(classes)]
            parts.append(torch.stack([term.to("cpu", torch.float64) for term in terms], dim=1) + prior)
        return torch.cat(parts)

    return classify
