"""Metrics: how good a model is, each number with its unit, its strength, its standard error and what it was computed from."""

from manykin.metrics.bayes import bayes_rule
from manykin.metrics.case import Case
from manykin.metrics.claims import compare_claims, flags
from manykin.metrics.classes import class_coverage, class_distance, condition_accuracy
from manykin.metrics.classifier import classifier_two_sample
from manykin.metrics.columns import column_distances
from manykin.metrics.copying import ct_test, holdout_share
from manykin.metrics.energy import energy_distance
from manykin.metrics.estimate import Estimate, Evaluation
from manykin.metrics.figures import Figure, Finding, Metric
from manykin.metrics.frechet import (
    frechet_distance,
    frechet_infinity,
    inception_score,
    kernel_distance,
)
from manykin.metrics.gaps import kolmogorov_smirnov, total_variation
from manykin.metrics.gaussians import feature_moments, frechet_from_moments
from manykin.metrics.judge import as_good_as_real, chosen, figure, judge, standing
from manykin.metrics.kernels import mmd, mmd_test
from manykin.metrics.likelihoods import default_draws, likelihood, log_likelihoods
from manykin.metrics.manifold import prdc
from manykin.metrics.neighbours import nearest
from manykin.metrics.sliced import sliced_wasserstein, wasserstein_1d

__all__ = [
    "Case", "Estimate", "Evaluation", "Figure", "Finding", "Metric", "as_good_as_real", "bayes_rule", "chosen", "class_coverage", "class_distance",
    "classifier_two_sample", "column_distances", "compare_claims", "condition_accuracy", "ct_test", "default_draws", "energy_distance",
    "feature_moments", "figure", "flags", "frechet_distance", "frechet_from_moments", "frechet_infinity", "holdout_share", "inception_score",
    "judge", "kernel_distance", "kolmogorov_smirnov", "likelihood", "log_likelihoods", "mmd", "mmd_test", "nearest", "prdc", "sliced_wasserstein",
    "total_variation", "standing", "wasserstein_1d",
]  # fmt: skip
