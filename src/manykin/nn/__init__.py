"""Networks that know no probability: they map tensors to tensors and import nothing of manykin but its errors."""

from manykin.nn.actnorm import ActNorm
from manykin.nn.embed import LabelFeatures, VectorFeatures
from manykin.nn.mlp import MLP

__all__ = ["MLP", "ActNorm", "LabelFeatures", "VectorFeatures"]
