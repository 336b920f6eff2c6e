"""Networks that know no probability: they map tensors to tensors and import nothing of manykin but its errors."""

from manykin.nn.actnorm import ActNorm
from manykin.nn.conv import ConvDecoder, ConvEncoder
from manykin.nn.embed import LabelFeatures, VectorFeatures
from manykin.nn.grams import Grams
from manykin.nn.grid import GridNet
from manykin.nn.masked_mlp import MaskedMLP
from manykin.nn.mlp import MLP
from manykin.nn.timed import TimedMLP, TimeFeatures
from manykin.nn.unet import UNet

__all__ = [
    "MLP",
    "ActNorm",
    "ConvDecoder",
    "ConvEncoder",
    "Grams",
    "GridNet",
    "LabelFeatures",
    "MaskedMLP",
    "TimeFeatures",
    "TimedMLP",
    "UNet",
    "VectorFeatures",
]
