"""Markov chain Monte Carlo: kernels over batches of chains, annealed importance sampling, and what chains say about themselves.

Knows tensors and energies only, never a model or a network.
"""

from manykin.mcmc.ais import LogPartition, Path, annealed, effective_size, log_partition, require_two, warn_of_poor_weights
from manykin.mcmc.chains import ChainSampler, RunsChains
from manykin.mcmc.diagnostics import acceptance, diverged, effective_sample_size, split_r_hat, warn_of_divergence
from manykin.mcmc.gibbs import BlockGibbs, SiteGibbs
from manykin.mcmc.hmc import HMC, HMCKernel
from manykin.mcmc.independence import IndependenceKernel
from manykin.mcmc.kernel import Energy, Kernel, Move, TemperedEnergy, run, steps, trace
from manykin.mcmc.langevin import Langevin, LangevinKernel
from manykin.mcmc.points import Point, PointKernel

__all__ = [
    "HMC", "BlockGibbs", "ChainSampler", "Energy", "HMCKernel", "IndependenceKernel", "Kernel", "Langevin", "LangevinKernel", "LogPartition",
    "Move", "Path", "Point", "PointKernel", "RunsChains", "SiteGibbs", "TemperedEnergy", "acceptance", "annealed", "diverged",
    "effective_sample_size", "effective_size", "log_partition", "require_two", "run", "split_r_hat", "steps", "trace", "warn_of_divergence",
    "warn_of_poor_weights",
]  # fmt: skip
