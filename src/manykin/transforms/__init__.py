"""Lossless maps between data space and model space, with their log-determinants, and the bridge that chooses among them."""

from manykin.transforms.base import Batches, Chain, Identity, Transform
from manykin.transforms.bridge import Support, bridge
from manykin.transforms.continuous import AsColumns, Flatten, Logit, Scale, Standardise
from manykin.transforms.discrete import Dequantise

__all__ = ["AsColumns", "Batches", "Chain", "Dequantise", "Flatten", "Identity", "Logit", "Scale", "Standardise", "Support", "Transform", "bridge"]
