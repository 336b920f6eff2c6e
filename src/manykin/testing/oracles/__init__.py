"""Sound models with known answers: small enough to be right by reading, and the ground on which broken ones are built.

Each has a closed-form answer to compare with: the Gaussian its own formula, the linear-Gaussian VAE its exact marginal, the categorical model its
table, the Markov chain its sum over strings.
"""

from manykin.contract import GenerativeModel
from manykin.spaces import Column, Image, Labels, Space, Table, Tokens, Vector
from manykin.testing.oracles.adversarial import CriticOracle
from manykin.testing.oracles.chain import ChainOracle
from manykin.testing.oracles.diffusion import DenoisingOracle
from manykin.testing.oracles.discrete import MarkovOracle, TableOracle
from manykin.testing.oracles.energy import BoltzmannOracle
from manykin.testing.oracles.energy_chains import LangevinOracle
from manykin.testing.oracles.gaussian import EnergyOracle, GaussianOracle, OracleConfig
from manykin.testing.oracles.latent import CodingOracle, GanOracle, LinearVAE, LogisticVAE, MixtureOracle
from manykin.testing.oracles.pictures import PictureOracle
from manykin.testing.oracles.rows import KernelOracle

__all__ = [
    "ORACLES", "SMALL_TABLE", "SWITCHES", "BoltzmannOracle", "ChainOracle", "CodingOracle", "CriticOracle", "DenoisingOracle", "EnergyOracle",
    "GanOracle", "GaussianOracle", "KernelOracle", "LangevinOracle", "LinearVAE", "LogisticVAE", "MarkovOracle", "MixtureOracle", "OracleConfig",
    "PictureOracle", "TableOracle", "oracle",
]  # fmt: skip

SMALL_TABLE = Table(
    (
        Column("size", "integer", levels=3),
        Column("colour", "categorical", ("red", "green"), missing=True),
        Column("round", "categorical", (False, True)),
    )
)
"""A table of twelve possible rows, and six more with a missing value."""

SWITCHES = Table(tuple(Column(name, "categorical", (False, True)) for name in ("first", "second", "third")))
"""A table of three binary columns."""

ORACLES: dict[str, tuple[type[GenerativeModel], Space, Space | None]] = {
    "gaussian": (GaussianOracle, Vector(2), None),
    "gaussian-wide": (GaussianOracle, Vector(6), None),
    "gaussian-by-label": (GaussianOracle, Vector(2), Labels(3)),
    "gaussian-on-levels": (GaussianOracle, Vector(2, levels=5), None),
    "energy": (EnergyOracle, Vector(3), None),
    "boltzmann": (BoltzmannOracle, Vector(4, levels=2), None),
    "boltzmann-by-label": (BoltzmannOracle, Vector(4, levels=2), Labels(2)),
    "energy-by-chains": (LangevinOracle, Vector(2), None),
    "energy-by-chains-and-label": (LangevinOracle, Vector(2), Labels(3)),
    "linear-vae": (LinearVAE, Vector(2), None),
    "logistic-vae": (LogisticVAE, SWITCHES, None),
    "table": (TableOracle, SMALL_TABLE, None),
    "table-by-label": (TableOracle, Vector(2, levels=3), Labels(2)),
    "linear-codes": (CodingOracle, Vector(4), None),
    "mixture": (MixtureOracle, Vector(1), None),
    "mixture-on-levels": (MixtureOracle, Vector(2, levels=5), None),
    "kernels": (KernelOracle, Vector(2), None),
    "strings": (MarkovOracle, Tokens(4, 5, end=0), None),
    "stream": (MarkovOracle, Tokens(3, 4), None),
    "denoiser": (DenoisingOracle, Vector(2), None),
    "denoiser-by-label": (DenoisingOracle, Vector(2), Labels(3)),
    "chain": (ChainOracle, Tokens(4, 5, end=0), None),
    "chain-stream": (ChainOracle, Tokens(3, 4), None),
    "picture": (PictureOracle, Image((1, 3, 3), levels=2), None),
    "picture-in-colour": (PictureOracle, Image((3, 2, 2), levels=2), None),
    "gan": (GanOracle, Vector(2), None),
    "gan-by-label": (GanOracle, Vector(2), Labels(3)),
    "critic": (CriticOracle, Vector(2), None),
    "critic-on-levels-by-label": (CriticOracle, Vector(2, levels=5), Labels(2)),
}
"""Sound models by name: class, space and condition. Every check passes on each of them."""


def oracle(name: str) -> GenerativeModel:
    """A sound model by name, unfitted."""
    kind, space, condition = ORACLES[name]
    return kind(None, space, condition)
