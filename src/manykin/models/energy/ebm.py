"""The deep energy-based model."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from manykin.config import Config, option
from manykin.contract import UNNORMALISED, Batch, Density, GenerativeModel, Gradient, Optim, Phase, Preset, Sampler, Support
from manykin.errors import InvalidInput, Unsupported
from manykin.mcmc.ais import LogPartition, Path, log_partition, require_two, warn_of_poor_weights
from manykin.mcmc.chains import ChainSampler, refuse_runaways, walk
from manykin.mcmc.hmc import HMC
from manykin.mcmc.independence import half_square
from manykin.mcmc.kernel import Energy
from manykin.mcmc.langevin import BEST_LANGEVIN, Langevin, LangevinKernel, adapted
from manykin.models.conditions import ConditionFeatures
from manykin.models.energy.labelled import LabelledChains, refuse_few
from manykin.models.energy.presets import default, picture, tiny
from manykin.models.energy.quadrature import log_normaliser
from manykin.models.energy.reference import Reference
from manykin.nn.energy import PictureEnergy, VectorEnergy
from manykin.random import hash_seed
from manykin.spaces import Image, Labels, Space, Value, Vector, take

SMALLEST = 4
"""Height and width from which pictures go to convolutions."""
COUNTABLE = 2
"""Entries up to which the normaliser is integrated on a grid."""
SETTLING = 0.05
"""How fast the step size follows the acceptance."""
FIRST_STEP, PLAIN_STEP = 0.5, 0.1
"""Step sizes at the start, with and without Metropolis' correction, where none is given."""


@dataclass(frozen=True)
class EBMConfig(Config):
    """Options of :class:`EBM`."""

    network: Literal["auto", "mlp", "conv"] = option(
        "auto", "what gives the energy: a perceptron, or convolutions for pictures; auto takes what fits"
    )
    hidden: tuple[int, ...] = option((128, 128), "width of each hidden layer; of conv: of those after the convolutions", ge=1)
    waves: int = option(0, "octaves of sines and cosines of each entry that the mlp sees beside it; for sharp edges in few columns", ge=0, le=12)
    widths: tuple[int, ...] = option((32, 64), "channels of each level of conv, the finest first", ge=1)
    covariance: Literal["auto", "full", "diagonal"] = option("auto", "of the Gaussian reference; auto: full up to 1024 entries")
    steps: int = option(10, "Langevin steps of each chain in a training step", ge=1)
    step_size: float | None = option(
        None, "length of a Langevin step, the reference having deviation 1; none: settled in training by acceptance", gt=0
    )
    metropolis: bool = option(True, "whether Langevin steps may be refused, which makes them exact")
    temperature: float = option(1.0, "square of the chains' noise relative to Langevin's; other than 1 samples are not those of log_prob", gt=0)
    clip: float = option(10.0, "largest gradient of a chain, root of the mean square over its entries", gt=0)
    leap_every: int = option(5, "steps of a chain between proposals of a fresh draw of the reference, refused or not; 0: none", ge=0)
    buffer: int = option(4096, "chains that live on from step to step of training; 0: each step begins its chains anew", ge=0)
    restart: float = option(0.05, "share of the chains of the buffer that begin anew when they are taken up", ge=0, le=1)
    regularise: float = option(1e-3, "weight of the squared energies, which holds them near 0", ge=0)
    noise: float = option(0.0, "standard deviation of noise added to training data, entries being scaled; log_prob is then that of noisy data", ge=0)
    sample_steps: int = option(200, "steps of each chain in sampling, where no sampler says otherwise", ge=1)
    condition_width: int = option(16, "features of a label condition", ge=1)


class EBM(GenerativeModel):
    r"""A network that gives every example an energy, on top of a Gaussian: ``p(z) = exp(-E(z)) N(z; m, S) / Z``.

    The Gaussian has mean (of each label) and covariance of the training rows: it gives the model its tails, so that Z is finite, chains their
    beginning, and their steps the right units (an exponential tilt of a reference measure: Xie, Lu, Zhu and Wu, A theory of generative ConvNet,
    2016, equation 3). Training follows the gradient of the likelihood, ``-E_data[grad E] + E_model[grad E]`` (equation 8 there; Nijkamp et al., On
    the anatomy of MCMC-based maximum likelihood learning of energy-based models, 2020, equation 4), with draws of the model from Langevin chains
    that live on in a replay buffer (Tieleman, Training restricted Boltzmann machines using approximations to the likelihood gradient, 2008; Du and
    Mordatch, Implicit generation and generalization in energy based models, 2019, algorithm 1), a few of which begin anew. Chains take no gradient
    to the parameters and none flows through them.

    ``log_prob`` is log p(z) + log Z; up to two entries log Z is integrated on a grid whenever the weights have changed, and it is an estimate of log
    p(z). Of a model conditional on labels, Z differs by label, and each row of a batch is set against a chain of its own label, so that no label's
    energy is pushed as a whole. With ``temperature`` 1 and ``metropolis`` the chains' law is the density; with others it is not: samples then follow
    another law than ``log_prob``, and so does training, of which ``density`` of more than two entries says that its bias is unknown. Cost: a chain
    of s steps takes 1 + s + s / ``leap_every`` evaluations of the network with gradients, in training (s = ``steps``) as in sampling
    (``sample_steps``); the loss of a training step is one more, of rows and chains together.

    Training notes ``data_energy``, ``chain_energy`` and ``gap`` (their difference: near 0 where chains keep up; a drift away from it is the usual
    way to fail), ``acceptance`` and ``step_size``.
    """

    config_class = EBMConfig
    family = "energy"
    paper = "Du and Mordatch, Implicit generation and generalization in energy based models, 2019"
    samplers: ClassVar[tuple[type[Sampler], ...]] = (Langevin, HMC)
    presets: ClassVar[Mapping[str, Preset | Callable[..., Preset]]] = {"default": default, "cpu": picture, "tiny": tiny}

    chains: Tensor
    chain_labels: Tensor
    step_size: Tensor

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        wanted = "auto" if config is None else getattr(config, "network", "auto")
        if wanted == "conv" and not (isinstance(space, Image) and min(space.size[1:]) >= SMALLEST):
            raise InvalidInput(f"network = 'conv' needs pictures of at least {SMALLEST} x {SMALLEST}, not {space}; choose --model.network mlp.")
        super().__init__(config, space, condition)
        options: EBMConfig = self.config
        shape, classes = self.model_space.shape, condition.classes if isinstance(condition, Labels) else 0
        if options.buffer:
            refuse_few("buffer", options.buffer, classes)
        self.reference = Reference(shape, options.covariance, classes)
        self.features = ConditionFeatures(condition, options.condition_width)
        self.network: nn.Module
        if isinstance(self.model_space, Image):
            self.network = PictureEnergy(self.model_space.size, options.widths, options.hidden, self.features.width)
        else:
            self.network = VectorEnergy(self.reference.size, options.hidden, self.features.width, options.waves)
        self.register_buffer("chains", torch.zeros(options.buffer, self.reference.size))
        self.register_buffer("chain_labels", torch.zeros(options.buffer, dtype=torch.long))
        self.register_buffer("step_size", torch.ones(()))
        self._constants: tuple[tuple[object, ...], dict[int, Tensor]] = ((), {})

    @property
    def accepts(self) -> Support:
        kinds: dict[str, tuple[type[Space], ...]] = {"mlp": (Vector,), "conv": (Image,), "auto": (Image, Vector)}
        wanted = self.config.network
        if wanted == "auto" and isinstance(self.space, Image) and min(self.space.size[1:]) < SMALLEST:
            wanted = "mlp"
        return Support(kinds[wanted], bounded="scale", standardise=True, condition=(Labels,))

    @property
    def kind(self) -> Density | None:
        if self.countable:
            return Density(bias="unknown")
        return UNNORMALISED if self.config.metropolis and self.config.temperature == 1 else Density(normalised=False, bias="unknown")

    @property
    def countable(self) -> bool:
        """Whether the entries are few enough to integrate the normaliser."""
        return self.reference.size <= COUNTABLE

    def phases(self) -> list[Phase]:
        return [Gradient("main", optimizer=Optim("adam", lr=1e-3, betas=(0.9, 0.99)), contrastive=True)]

    def initialise(self, sample: Batch) -> None:
        """The reference from the training rows, and chains that begin there."""
        z, _ = self.to_model_space(sample.x)
        options: EBMConfig = self.config
        self.reference.fit(self._noisy(z), sample.condition)
        self.chains.copy_(torch.randn_like(self.chains))
        if isinstance(self.condition, Labels) and options.buffer:
            self.chain_labels.copy_(LabelledChains.dealt(self.condition_frequencies, options.buffer).labels)
        first = (FIRST_STEP if options.metropolis else PLAIN_STEP) if options.step_size is None else options.step_size
        self.step_size.fill_(first)

    def _noisy(self, z: Tensor) -> Tensor:
        return z + self.config.noise * torch.randn_like(z) if self.config.noise else z

    # Energies.

    def energy(self, z: Tensor, condition: Value | None = None) -> Tensor:
        """E(z) of points in model space, shape (n,): minus the log ratio of the model's density to its reference, up to a constant."""
        return self.network(z, self.features(condition, z.dtype))  # type: ignore[no-any-return]

    def potential(self, condition: Value | None) -> Energy:
        """The energy whose density chains (n, d) follow, in units of the reference: ``E(m_c + L u) + |u|^2 / 2``."""
        context = self.features(condition, self.dtype)
        context = None if context is None else context.detach()
        return lambda u: self.network(self.reference.push(u, condition), context) + half_square(u)

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        u = self.reference.pull(z, condition)
        normal = half_square(u).double() + self.reference.log_volume() + 0.5 * self.reference.size * math.log(2 * math.pi)
        value = -self.energy(z, condition).double() - normal
        return value - self._log_normalisers(condition) if self.countable else value

    @torch.no_grad()
    def _log_normalisers(self, condition: Value | None) -> Tensor:
        """log Z of each row's condition, shape (n,) or ()."""
        stamp = self._stamp()
        if self._constants[0] != stamp:
            self._constants = (stamp, {})
        known = self._constants[1]
        labels, places = torch.unique(condition, return_inverse=True) if isinstance(condition, Tensor) else (None, None)
        names = [-1] if labels is None else labels.tolist()
        for name in names:
            if name not in known:
                known[name] = log_normaliser(partial(self._energy_given, label=name), self.chains)
        values = torch.stack([known[name] for name in names])
        return values[0] if places is None else values[places]

    def _energy_given(self, u: Tensor, label: int) -> Tensor:
        """E(m_c + L u) of points that share a label; -1 for none."""
        c = None if label < 0 else torch.full((len(u),), label, device=u.device)
        return self.energy(self.reference.push(u, c), c)

    def _stamp(self) -> tuple[object, ...]:
        """What the constants depend on, in a few numbers: they are kept until it changes."""
        parts = [*self.network.parameters(), *self.features.parameters(), self.reference.means, self.reference.factor]
        flat = torch.cat([part.detach().double().flatten() for part in parts])
        places = torch.linspace(1, 2, len(flat), dtype=flat.dtype, device=flat.device)
        sums = torch.stack([flat.sum(), flat.square().sum(), (places * flat).sum(), (places.square() * flat).sum()])
        return (self.dtype, str(self.device), *sums.tolist())

    def log_partition(
        self, condition: int | None = None, *, temperatures: int | None = None, chains: int | None = None, seed: int = 0, estimate: bool = False
    ) -> LogPartition:
        """log Z, of one label for a conditional model: integrated up to two entries, else estimated by annealed importance sampling from the
        reference, by default with 1000 temperatures and 100 chains: ``log p(x) = log_prob(x) - log Z`` where :attr:`density` is unnormalised.

        The mean weight is unbiased for Z, so an estimated log Z is too small on average and likelihoods too high. ``estimate`` asks for an estimate
        also where the grid is at hand. Warns where the effective sample size is small. Cost: three evaluations of the network, two of them with
        gradients, for each temperature and chain.

        Raises:
            InvalidInput: for a label that is missing, superfluous or unknown, or less than two temperatures or chains.
        """
        label = self.check_condition(None if condition is None else torch.tensor([condition]), 1)
        temperatures, chains = 1000 if temperatures is None else temperatures, 100 if chains is None else chains
        require_two(temperatures, chains)
        if self.countable and not estimate:
            with self.evaluating(0):
                return LogPartition.exactly(float(self._log_normalisers(label)))
        with self.evaluating(hash_seed(seed, "partition")):
            found = log_partition(self._path(label, chains), chains, temperatures)
        warn_of_poor_weights([found], f"give more temperatures than {temperatures}")
        return found

    def _path(self, label: Value | None, chains: int) -> Path:
        """From the reference to the model, of one label."""
        many = None if label is None else take(label, torch.zeros(chains, dtype=torch.long, device=self.device))
        step = float(self.step_size)

        def own(u: Tensor) -> Tensor:
            return self.energy(self.reference.push(u, many), many)

        def tempered(u: Tensor, beta: float) -> Tensor:
            return beta * own(u) + half_square(u)

        return Path(
            start=lambda n: torch.randn(n, self.reference.size, dtype=self.dtype, device=self.device), log_base=0.0, energy=tempered,
            kernel=lambda beta: LangevinKernel(lambda u: tempered(u, beta), step), rise=lambda u, low, high: (high - low) * own(u),
        )  # fmt: skip

    def score(self, x: Value) -> Tensor:
        """The gradient of log p(x), shape of x: minus that of the energy and of the reference, whatever the normaliser.

        Raises:
            InvalidInput: for values outside the space.
            Unsupported: for data that are not real numbers, which have no gradient, and for a model with a condition.
        """
        valid = self.space.validate(x)
        if not self.transform.exact or self.condition is not None:
            why = "the data have levels" if not self.transform.exact else "the model is conditional"
            raise Unsupported(f"score is the gradient of log p(x) in real x, and here {why}; differentiate log_prob(x, condition) where x is real.")
        with torch.enable_grad():
            assert isinstance(valid, Tensor)
            leaf = valid.detach().to(self.device).requires_grad_(True)
            (slope,) = torch.autograd.grad(self.log_prob(leaf).sum(), leaf)
        return slope

    # Learning.

    def loss(self, batch: Batch) -> Tensor:
        """Energy of each example minus that of the end of a chain of its label, plus ``regularise`` times the squares of both, shape (n,).

        The gradient of the difference is that of minus the likelihood where chains follow the model; the squares add that of their penalty.
        """
        z, _ = self.to_model_space(batch.x)
        z, n = self._noisy(z), len(z)
        ends, labels = self.negatives(n, batch.condition)
        if isinstance(batch.condition, Tensor) and isinstance(labels, Tensor):
            labels = torch.cat([batch.condition, labels])
        data, chains = torch.split(self.energy(torch.cat([z, ends]), labels), n)
        self.note("data_energy", data)
        self.note("chain_energy", chains)
        self.note("gap", data.detach() - chains.detach())
        return data - chains + self.config.regularise * (data.square() + chains.square())  # type: ignore[no-any-return]

    @torch.no_grad()
    def negatives(self, n: int, condition: Value | None = None) -> tuple[Tensor, Value | None]:
        """The ends of n chains in model space with their labels: those asked for, or labels drawn by frequency.

        In training mode the chains live on from there, and the step size follows their acceptance.
        """
        options: EBMConfig = self.config
        labels = condition if isinstance(condition, Tensor) else None
        if labels is None and isinstance(self.condition, Labels):
            labels = torch.multinomial(self.condition_frequencies, n, replacement=True)
        picked, first, u = self._taken_up(n, labels)
        own, energy = self._own(options.steps), self.potential(labels)
        moved = walk(own.bind(energy, float(self.step_size)), own.leap(energy), u, options.steps, options.leap_every)
        if not options.metropolis:
            refuse_runaways(moved.state, f"Langevin and step_size = {float(self.step_size):g}")
        self.note("acceptance", moved.accepted)
        self.note("step_size", self.step_size.clone())
        if self.training:
            self.chains[picked[first]] = moved.state[first].to(self.chains.dtype)
            if options.metropolis and options.step_size is None:
                self.step_size.copy_(adapted(self.step_size, moved.accepted, BEST_LANGEVIN, SETTLING))
        return self.reference.push(moved.state, labels), labels

    def _taken_up(self, n: int, labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Where n chains stand in the buffer, which of them are there for the first time, and their states: a few begin anew, as do those of labels
        that no chain of the buffer has."""
        size = self.config.buffer
        fresh = torch.randn(n, self.reference.size, dtype=self.dtype, device=self.device)
        if not size:
            return torch.zeros(n, dtype=torch.long, device=self.device), torch.zeros(n, dtype=torch.bool, device=self.device), fresh
        if labels is None:
            picked = torch.cat([torch.randperm(size, device=self.device) for _ in range(-(-n // size))])[:n]
            first = torch.arange(n, device=self.device) < size
        else:
            picked, first = LabelledChains(self.chain_labels, self.condition_frequencies).pick(labels)
        anew = (torch.rand(n, device=self.device) < self.config.restart) | (picked < 0)
        return picked, first, torch.where(anew[:, None], fresh, self.chains[picked].to(self.dtype))

    # Sampling.

    def _own(self, steps: int) -> Langevin:
        """The chains of training, and of sampling where no sampler is given."""
        options: EBMConfig = self.config
        clip = options.clip * self.reference.size**0.5
        return Langevin(steps, None, options.leap_every, "fresh", options.metropolis, options.temperature, clip)

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        chosen = self._own(self.config.sample_steps) if sampler is None else sampler
        assert isinstance(chosen, ChainSampler)
        u = torch.randn(n, self.reference.size, dtype=self.dtype, device=self.device)
        if chosen.chains == "buffer":
            u = self._from_buffer(n, condition)
        return self.reference.push(chosen.walk(self.potential(condition), u, float(self.step_size)).state, condition)

    def _from_buffer(self, n: int, condition: Value | None) -> Tensor:
        """States of n chains of the buffer, of the labels wanted."""
        if not self.config.buffer:
            raise InvalidInput("chains = 'buffer' are not there: this model was fitted with --model.buffer 0; sample with chains = 'fresh'.")
        if not isinstance(condition, Tensor):
            return self.chains[torch.randint(len(self.chains), (n,), device=self.device)]
        chances = (self.chain_labels[None] == condition[:, None]).double()
        missing = condition[chances.sum(dim=1) == 0]
        if len(missing):
            raise InvalidInput(f"chains = 'buffer' has no chain of label {int(missing[0])} among {len(self.chains)}; sample with chains = 'fresh'.")
        return self.chains[torch.multinomial(chances, 1)[:, 0]]
