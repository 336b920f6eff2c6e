"""Metrics: how good a model is, each number with its unit, its strength, its standard error and what it was computed from."""

from manykin.metrics.case import Case
from manykin.metrics.energy import energy_distance
from manykin.metrics.estimate import Estimate, Evaluation
from manykin.metrics.figures import Figure, Finding, Metric
from manykin.metrics.judge import as_good_as_real, chosen, figure, judge
from manykin.metrics.likelihoods import default_draws, likelihood, log_likelihoods

__all__ = [
    "Case", "Estimate", "Evaluation", "Figure", "Finding", "Metric", "as_good_as_real", "chosen", "default_draws", "energy_distance", "figure",
    "judge", "likelihood", "log_likelihoods",
]  # fmt: skip
