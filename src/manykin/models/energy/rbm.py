"""The restricted Boltzmann machine."""

import math
from collections.abc import Callable, Mapping
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Distribution, Independent

from manykin.config import Config
from manykin.contract import (
    EXACT,
    UNNORMALISED,
    Batch,
    ClosedForm,
    Density,
    GenerativeModel,
    Gradient,
    Optim,
    Phase,
    Preset,
    Progress,
    Sampler,
    Support,
)  # fmt: skip
from manykin.errors import InvalidInput, Runaway
from manykin.mcmc import LogPartition, diverged, require_two, run, warn_of_divergence, warn_of_poor_weights
from manykin.models.energy.labelled import LabelledChains, refuse_few
from manykin.models.energy.machine import Machine
from manykin.models.energy.rbm_options import EXACT_HIDDEN, Gibbs, RBMConfig
from manykin.models.energy.rbm_presets import PRESETS
from manykin.models.energy.tempered import Tempered, bits_of
from manykin.models.energy.visible import Bernoulli, Gaussian, Ordinal, Visible, kind_of
from manykin.random import fresh_seed, hash_seed
from manykin.spaces import Labels, Space, Table, Value, Vector, columns_of

REACH = 100.0
"""Standard deviations beyond which a chain of a Gaussian machine has run away."""

COMPLETION = 100
"""Gibbs steps of a completion where no sampler is given: with entries held, chains forget sooner."""

PROBE = 64
"""Rows of a batch from which the moving mean of hidden activity follows."""


class RBM(GenerativeModel):
    """Visible and hidden units that are independent given each other: ``p(t, h) = exp(-E(t, h)) / Z``.

    ``E(t, h) = -base(t) - (t - centre) scale (bias + W h) - c h`` with h in {0, 1}; summed over h, the free energy is
    ``F(t) = -base(t) - (t - centre) scale bias - sum_j softplus(c_j + ((t - centre) scale W)_j)`` and ``log p(t) = -F(t) - log Z`` (Smolensky,
    Information processing in dynamical systems, 1986; Hinton, Training products of experts by minimizing contrastive divergence, 2002). Visible
    units are Bernoulli, ordinal (an exponential tilt of each column's histogram) or Gaussian; labels shift the biases of both layers, and each class
    has its own Z.

    The loss is F(data) - F(chains), whose gradient is that of minus the log-likelihood where chains are samples of the machine: persistent ones
    (Tieleman, Training restricted Boltzmann machines using approximations to the likelihood gradient, 2008) or k steps from the data. Both
    phases use probabilities of hidden units, not draws. The gradient is centred: that of a machine in t - mean and h - moving mean (Montavon and
    Müller, Deep Boltzmann machines and the centering trick, 2012; Melchior, Fischer and Wiskott, How to center deep Boltzmann machines, 2016).

    Up to 20 hidden units log Z is added up over all their states, samples are exact draws and ``log_prob`` is exact. Above, log Z is estimated once
    after training by annealed importance sampling; exp of that estimate is unbiased, so that log Z is too small and **likelihoods are too high on
    average**, by more where the effective sample size is small (over repeated estimates; of the one in hand no side is sure, and its bias counts as
    unknown, not as a bound): :meth:`parameters_table` has the interval and the size, :meth:`log_partition`
    estimates again with more chains or temperatures. Before that, and after any change of the weights, ``density`` says unnormalised.

    Cost: ``rows * d * hidden`` products for each of the phases and for each Gibbs step; as much for each chain and temperature of the estimate.

    Training notes ``data_energy`` and ``chain_energy``, mean free energies of data and chains: equal in equilibrium; chains that lie lower have
    found a place that data do not fill, chains that lie higher lag behind.
    """

    chains: Tensor
    chain_labels: Tensor
    partition: Tensor
    stamp: Tensor
    totals: Tensor

    config_class = RBMConfig
    family = "energy"
    paper = "Smolensky, Information processing in dynamical systems: foundations of harmony theory, 1986; Hinton, 2002"
    presets: ClassVar[Mapping[str, Preset | Callable[[Space, int], Preset]]] = PRESETS
    samplers = (Gibbs,)

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        options: RBMConfig = self.config
        kind, classes = kind_of(options.visible, space), condition.classes if isinstance(condition, Labels) else 0
        if options.method == "pcd":
            refuse_few("chains", options.chains, classes)
        columns = columns_of(self.model_space)
        size = len(columns)
        visible: Visible = Gaussian(size) if kind == "gaussian" else (Bernoulli if kind == "bernoulli" else Ordinal)(columns)
        self.machine = Machine(visible, options.hidden, classes)
        groups, persistent = max(classes, 1), options.chains if options.method == "pcd" else 0
        stamps = len(list(self.machine.parameters()))
        self.register_buffer("chains", torch.zeros(persistent, size))
        self.register_buffer("chain_labels", torch.zeros(persistent, dtype=torch.long))
        self.register_buffer("partition", torch.full((groups, 5), math.nan, dtype=torch.float64))
        self.register_buffer("stamp", torch.full((2, stamps), math.nan, dtype=torch.float64))
        self.register_buffer("totals", torch.zeros(groups, 2, dtype=torch.float64))

    @property
    def visible(self) -> Visible:
        """The visible units."""
        return self.machine.visible

    # What it is.

    @property
    def enumerable(self) -> bool:
        """Whether all states of the hidden units can be added up."""
        return int(self.config.hidden) <= EXACT_HIDDEN

    @property
    def kind(self) -> Density:
        if self.enumerable:
            return EXACT
        return Density(bias="unknown") if self.machine.is_current(self.stamp) else UNNORMALISED

    @property
    def accepts(self) -> Support:
        if kind_of(self.config.visible, self.space) == "gaussian":
            return Support((Vector,), bounded="keep", condition=(Labels,))
        return Support((Table,), standardise=False, condition=(Labels,))

    def phases(self) -> list[Phase]:
        main = Gradient("main", optimizer=Optim("sgd", lr=self.visible.rate, betas=(0.0, 0.0)), contrastive=True)
        return [main, ClosedForm("partition", statistics=("totals",), when="end")]

    # Learning.

    def initialise(self, sample: Batch) -> None:
        """Biases of the columns' marginals, in each class; chains drawn from them, for each class by its frequency."""
        labels = cast(Tensor | None, sample.condition)
        self.machine.start(self._statistics(sample), labels)
        self.partition.fill_(math.nan)
        self.stamp.fill_(math.nan)
        if not len(self.chains):
            return
        if labels is not None:
            self.chain_labels.copy_(LabelledChains.dealt(self.condition_frequencies, len(self.chains)).labels)
        self.chains.copy_(self.machine.tempered(self._chain_labels()).start(len(self.chains)))

    def loss(self, batch: Batch) -> Tensor:
        """Free energy of each row minus that of the chains, shape (n,); moves the chains first, which live on from there in training mode.

        Its gradient is that of minus the log-likelihood, its value says nothing of it: about zero at the start and in equilibrium.
        """
        t = self._statistics(batch)
        labels = cast(Tensor | None, batch.condition)
        if self.training and self.config.centred:
            self.machine.follow(t[:PROBE], None if labels is None else labels[:PROBE])
        machine = self.machine.tempered(labels, centred=self.config.centred)
        negative, weights, behind = self._negative(t, labels, machine)
        positive = machine.energy(t)
        energy = behind.energy(negative)
        self.note("data_energy", positive)
        self.note("chain_energy", energy)
        return positive - (energy if weights is None else (weights * energy).sum())

    def _negative(self, t: Tensor, labels: Tensor | None, machine: Tempered) -> tuple[Tensor, Tensor | None, Tempered]:
        """States of the chains after their steps, what each counts (None: one chain a row), and the machine of their labels."""
        if self.config.method == "cd":
            return run(machine.kernel(), t, self.config.steps).state, None, machine
        mine = self._chain_labels()
        behind = machine if mine is None else self.machine.tempered(mine, centred=self.config.centred)
        moved = run(behind.kernel(), self.chains.clone(), self.config.steps).state
        if self.training:
            if isinstance(self.visible, Gaussian):
                self._refuse_runaways(moved)
            self.chains.copy_(moved)
        if mine is None:
            return moved, torch.full((len(moved),), 1.0 / len(moved), device=t.device), behind
        return moved, LabelledChains(mine, self.condition_frequencies).weights.to(t.dtype), behind

    def _refuse_runaways(self, state: Tensor) -> None:
        """Raise :class:`Runaway`, which sends training back: where units are real, chains show that it diverges long before a loss overflows."""
        lost = int(diverged(state, REACH).sum())
        if lost:
            raise Runaway(f"{lost} of {len(state)} Markov chains ran beyond {REACH:g} standard deviations of the data")

    def _chain_labels(self) -> Tensor | None:
        return None if self.condition is None else self.chain_labels

    def accumulate(self, batch: Batch) -> None:
        """Free energies of the training rows, by class."""
        t, labels = self._statistics(batch), cast(Tensor | None, batch.condition)
        energy = self.machine.tempered(labels).energy(t).double()
        rows = torch.zeros(len(t), dtype=torch.long, device=t.device) if labels is None else labels
        self.totals.index_add_(0, rows, torch.stack([energy, torch.ones_like(energy)], dim=1))

    def solve(self) -> Progress:
        """log Z of each class, exactly or by annealed importance sampling; warns where chains have diverged or the estimate is poor."""
        if isinstance(self.visible, Gaussian) and len(self.chains):
            warn_of_divergence(self.chains, REACH, "fit again with a lower --train.lr")
        if not self.enumerable and not self.config.ais_temperatures:
            return Progress(converged=True)
        found = self.machine.partitions(self.enumerable, self.config.ais_temperatures, self.config.ais_chains)
        rows = [(each.value, each.stderr, each.lower, each.upper, each.ess) for each in found]
        self.partition.copy_(torch.tensor(rows, dtype=torch.float64))
        self.stamp.copy_(self.machine.fingerprint())
        remedy = f"give more --model.ais_temperatures than {self.config.ais_temperatures}, or train with a lower --train.lr"
        warn_of_poor_weights(found, remedy)
        seen = self.totals[:, 1].sum().clamp_min(1)
        nll = float(((self.totals[:, 0].sum() + (self.totals[:, 1] * self.partition[:, 0]).sum()) / seen).detach())
        return Progress(
            {"train_nll": nll, "log_partition": float(self.partition[:, 0].mean()), "effective_sample_size": min(each.ess for each in found)},
            converged=True,
        )

    # Density.

    def _statistics(self, batch: Batch) -> Tensor:
        z, _ = self.to_model_space(batch.x)
        return self.visible.encode(z)

    def to_model_space(self, x: Value) -> tuple[Tensor, Tensor]:
        """Columns with levels stay in float64 until they are statistics, so that large numbers keep their digits."""
        return super().to_model_space(x) if isinstance(self.visible, Gaussian) else self.transform(x)

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        labels = cast(Tensor | None, condition)
        value = -self.machine.tempered(labels).energy(self.visible.encode(z)).double()
        if self.kind == UNNORMALISED:
            return value
        if self.machine.is_current(self.stamp):
            constants = self.partition[:, 0]
        else:
            constants = torch.logsumexp(self.machine.masses(), dim=1)
        return value - (constants[0] if labels is None else constants[labels])

    def free_energy(self, x: Value, condition: Value | None = None) -> Tensor:
        """Minus the log of the unnormalised density, in nats and data space, shape (n,): ``-log_prob - log Z`` whether or not log Z is known."""
        with self.evaluating(0):
            z, ldj, c = self.prepare(x, condition)
            return self.machine.tempered(cast(Tensor | None, c)).energy(self.visible.encode(z)).double() - ldj

    def log_partition(
        self, condition: int | None = None, *, temperatures: int | None = None, chains: int | None = None, seed: int = 0, estimate: bool = False
    ) -> LogPartition:
        """log Z in model space, of one class for a conditional model: exact up to 20 hidden units, else estimated anew with an interval.

        ``estimate`` asks for an estimate also where the exact value is at hand.

        Raises:
            InvalidInput: for a class that is missing, superfluous or unknown, or less than two temperatures or chains.
        """
        label = self.check_condition(None if condition is None else torch.tensor([condition]), 1)
        temperatures, chains = (
            self.config.ais_temperatures or 1000 if temperatures is None else temperatures,
            self.config.ais_chains if chains is None else chains,
        )
        require_two(temperatures, chains)
        with self.evaluating(hash_seed(seed, "partition")):
            every = self.machine.partitions(self.enumerable and not estimate, temperatures, chains)
        found = every[0 if label is None else int(cast(Tensor, label)[0])]
        warn_of_poor_weights([found], f"give more temperatures than {temperatures}")
        return found

    # Samples.

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        labels = cast(Tensor | None, condition)
        machine = self.machine.tempered(labels)
        if sampler is None and self.enumerable:
            return self.visible.decode(machine.draw_visible(self._states(n, labels)))
        gibbs = cast(Gibbs, sampler or Gibbs())
        state = machine.start(n) if gibbs.chains == "fresh" else self._kept(n, labels)
        return self.visible.decode(self._chain(machine, state, gibbs))

    def _states(self, n: int, labels: Tensor | None) -> Tensor:
        """Exact draws of the hidden units, (n, hidden), in each row's class."""
        chances = torch.softmax(self.machine.masses(), dim=1).to(self.device)
        rows = torch.zeros(n, dtype=torch.long, device=self.device) if labels is None else labels
        below = chances.cumsum(1)
        numbers = torch.empty_like(rows)
        for label in range(len(below)):
            u = torch.rand(n, dtype=torch.float64, device=self.device)
            found = torch.searchsorted(below[label], u * below[label, -1], right=True)
            numbers = torch.where(rows == label, found.clamp_max(below.shape[1] - 1), numbers)
        return bits_of(numbers, self.config.hidden).to(self.dtype)

    def _kept(self, n: int, labels: Tensor | None) -> Tensor:
        """n states of the chains of training, of each row's class."""
        if not len(self.chains):
            raise InvalidInput("chains = 'buffer' are not there: method cd keeps none; sample with chains = 'fresh', or fit with --model.method pcd.")
        fits = torch.ones(n, len(self.chains), device=self.device) if labels is None else (labels[:, None] == self.chain_labels).float()
        if not bool(fits.any(1).all()):
            raise InvalidInput("chains = 'buffer' has no chain of a class that training has never seen; sample with chains = 'fresh'.")
        return self.chains[torch.multinomial(fits, 1)[:, 0]]

    def _chain(self, machine: Tempered, state: Tensor, gibbs: Gibbs, known: Tensor | None = None) -> Tensor:
        cooling = int(gibbs.annealing * gibbs.steps) if gibbs.chains == "fresh" else 0
        for step in range(gibbs.steps):
            state = machine.kernel(min(1.0, (step + 1) / (cooling + 1)), known).step(state).state
        if isinstance(self.visible, Gaussian):
            warn_of_divergence(state, REACH, "fit again with a lower --train.lr")
        return state

    @torch.no_grad()
    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        """x with the entries where ``known`` (boolean, shape of x) is False drawn given the known ones: Gibbs sampling with these held.

        Fresh chains of 100 steps where no sampler says otherwise.

        Raises:
            InvalidInput: for a mask of another shape, a sampler other than :class:`Gibbs`, or values outside the space.
        """
        if sampler is not None and not isinstance(sampler, Gibbs):
            raise InvalidInput(f"sampler {type(sampler).__name__} does not fit complete; expected Gibbs.")
        with self.evaluating(hash_seed(fresh_seed() if seed is None else seed, "complete")):
            z, _, c = self.prepare(x, condition)
            assert isinstance(x, Tensor)
            if known.shape != x.shape or known.dtype != torch.bool:
                raise InvalidInput(f"known is {known.dtype} of shape {tuple(known.shape)}; expected booleans of the shape of x, {tuple(x.shape)}.")
            held, machine = known.to(z.device).reshape(len(z), -1), self.machine.tempered(cast(Tensor | None, c))
            state = torch.where(held, self.visible.encode(z), machine.start(len(z)))
            filled = cast(Tensor, self.finish(self.visible.decode(self._chain(machine, state, sampler or Gibbs(steps=COMPLETION), held))))
        return torch.where(known.to(filled.device), x.to(filled.device), filled.to(x.dtype))

    # Reading.

    @torch.no_grad()
    def encode(self, x: Value, condition: Value | None = None) -> Distribution:
        """p(h | x, c): independent Bernoulli hidden units with event shape (hidden,), exactly."""
        with self.evaluating(0):
            z, _, c = self.prepare(x, condition)
            return Independent(BernoulliDistribution(logits=self.machine.tempered(cast(Tensor | None, c)).inputs(self.visible.encode(z))), 1)

    def parameters_table(self) -> dict[str, Tensor]:
        """``components`` (hidden, d), ``intercept_hidden`` and ``intercept_visible`` of the first class, and what is known of log Z by class.

        ``log_partition``, ``log_partition_stderr``, ``log_partition_lower`` and ``log_partition_upper`` (three standard errors) are NaN, and
        ``effective_sample_size`` too, before training has ended; the size is infinite where log Z is exact.
        """
        machine = self.machine.of_class(0)
        components = (machine.scale * self.machine.weights.detach().T).clone()
        names = ("log_partition", "log_partition_stderr", "log_partition_lower", "log_partition_upper", "effective_sample_size")
        return {
            "components": components,
            "intercept_hidden": (machine.hidden - components @ self.visible.centre).detach(),
            "intercept_visible": machine.last.detach().clone(),
            **{name: self.partition[:, index].clone() for index, name in enumerate(names)},
        }
