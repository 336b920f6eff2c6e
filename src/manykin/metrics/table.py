"""THE TABLE of metrics of samples: name -> ``module:METRIC``. A new metric is one file and one line here."""

from functools import cache
from importlib import import_module

from manykin.metrics.figures import Metric

LIKELIHOOD = "likelihood"
"""The one metric of the model itself; all others judge samples."""

TABLE: dict[str, str] = {
    "energy": "manykin.metrics.energy:METRIC",
}


@cache
def metric(name: str) -> Metric:
    """A metric by name."""
    module, attribute = TABLE[name].split(":")
    found = getattr(import_module(module), attribute)
    assert isinstance(found, Metric)
    return found
