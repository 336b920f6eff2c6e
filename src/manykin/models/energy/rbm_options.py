"""Options of the restricted Boltzmann machine and of its sampler."""

from dataclasses import dataclass
from typing import Literal

from manykin.config import Config, option
from manykin.contract import Sampler
from manykin.models.energy.visible import ORDINAL_LEVELS

EXACT_HIDDEN = 20
"""Hidden units up to which all their states are added up."""


@dataclass(frozen=True)
class RBMConfig(Config):
    """Options of :class:`RBM`."""

    hidden: int = option(64, f"hidden units; up to {EXACT_HIDDEN} the likelihood is exact", ge=1)
    visible: Literal["auto", "bernoulli", "ordinal", "gaussian"] = option(
        "auto", f"visible units: auto takes bernoulli for two values, ordinal for up to {ORDINAL_LEVELS} ordered ones, else gaussian"
    )
    method: Literal["pcd", "cd"] = option("pcd", "chains of the negative phase: pcd keeps its own from step to step, cd starts them at the data")
    steps: int = option(1, "Gibbs steps of each chain a training step: the k of CD-k and PCD-k", ge=1)
    chains: int = option(100, "chains that pcd keeps; cd has one a row", ge=1)
    centred: bool = option(True, "follow the centred gradient; false: the plain one")
    ais_temperatures: int = option(
        1000,
        f"temperatures of the estimate of log Z after training, above {EXACT_HIDDEN} hidden units; 0: none, and log_prob stays unnormalised",
        ge=0,
    )
    ais_chains: int = option(100, "chains of that estimate, for each class", ge=2)


@dataclass(frozen=True)
class Gibbs(Sampler):
    """Block Gibbs sampling: all hidden units given the visible ones, then all visible ones given the hidden.

    ``fresh`` chains begin as independent columns and are cooled, from no weights to all of them, over the first ``annealing`` share of the steps;
    ``buffer`` chains are the ones that training kept, which have run for as long as training did, and are correlated with each other: two
    samples may descend from one chain. Figures of the two are not comparable.
    """

    steps: int = option(500, "Gibbs steps of each chain", ge=1)
    chains: Literal["fresh", "buffer"] = option("fresh", "where chains begin: fresh ones, or those of training")
    annealing: float = option(0.5, "share of the steps over which fresh chains are cooled; buffer chains are not", ge=0, le=1)
