"""THE TABLE of metrics of samples: name -> ``module:METRIC``. A new metric is one file and one line here."""

from functools import cache
from importlib import import_module

from manykin.metrics.figures import Metric

LIKELIHOOD = "likelihood"
"""The one metric of the model itself; all others judge samples."""

TABLE: dict[str, str] = {
    "energy": "manykin.metrics.energy:METRIC",
    "mmd": "manykin.metrics.kernels:METRIC",
    "sliced_wasserstein": "manykin.metrics.sliced:METRIC",
    "c2st": "manykin.metrics.classifier:METRIC",
    "prdc": "manykin.metrics.manifold:METRIC",
    "frechet": "manykin.metrics.frechet:METRIC",
    "kernel": "manykin.metrics.frechet:KERNEL",
    "columns": "manykin.metrics.columns:METRIC",
    "classes": "manykin.metrics.classes:METRIC",
    "memorisation": "manykin.metrics.memorisation:METRIC",
    "diversity": "manykin.metrics.diversity:METRIC",
    "usefulness": "manykin.metrics.usefulness:METRIC",
    "augmentation": "manykin.metrics.augmentation:METRIC",
}


@cache
def metric(name: str) -> Metric:
    """A metric by name."""
    module, attribute = TABLE[name].split(":")
    found = getattr(import_module(module), attribute)
    assert isinstance(found, Metric)
    return found
