"""Metrics: how good a model is, each number with its unit, its strength, its standard error and what it was computed from."""

from manykin.metrics.estimate import Estimate, Evaluation
from manykin.metrics.likelihoods import default_draws, likelihood, log_likelihoods
from manykin.metrics.two_sample import distance_features, energy_distance, noise_floor, sample_distance, sample_metrics

__all__ = [
    "Estimate", "Evaluation", "default_draws", "distance_features", "energy_distance", "likelihood", "log_likelihoods", "noise_floor",
    "sample_distance", "sample_metrics",
]  # fmt: skip
