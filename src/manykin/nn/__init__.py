"""Networks that know no probability: they map tensors to tensors and import nothing of manykin but its errors."""

from manykin.nn.actnorm import ActNorm
from manykin.nn.embed import LabelFeatures, VectorFeatures
from manykin.nn.mlp import MLP
from manykin.nn.timed import TimedMLP, TimeFeatures
from manykin.nn.unet import UNet

__all__ = ["MLP", "ActNorm", "LabelFeatures", "TimeFeatures", "TimedMLP", "UNet", "VectorFeatures"]
