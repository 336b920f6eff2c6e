"""Deliberately wrong models, one or more for every check: small variations of the oracles, each with a mistake that people make.

A check that catches none of them proves nothing, so a test demands that each is caught by the checks it is registered under.
"""

from manykin.testing.broken import (
    adversarial,
    autoregressive,
    bookkeeping,
    diffusion,
    energy,
    energy_chains,
    flows,
    identities,
    interface,
    latent,
    laws,
    persistence,
)
from manykin.testing.broken.registry import BROKEN, Broken

__all__ = [
    "BROKEN", "Broken", "adversarial", "autoregressive", "bookkeeping", "diffusion",
    "energy", "energy_chains", "flows", "identities", "interface", "latent", "laws", "persistence",
]  # fmt: skip
