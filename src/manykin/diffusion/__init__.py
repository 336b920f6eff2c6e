"""What diffusion models and flow matching are composed of: schedules, denoisers, grids of times, solvers, guidance, likelihoods.

A :class:`Schedule` says how data turn into noise, a :class:`Denoiser` guesses the data behind a noisy point, a solver walks from noise to data along
a grid of times, asking the denoiser at each. Guidance and inpainting are denoisers around denoisers. Flow matching is the rectified schedule with
velocity prediction.
"""

from manykin.diffusion.denoiser import Denoiser, Denoises, Guess, NetworkDenoiser, Prediction
from manykin.diffusion.grids import Spacing, grid
from manykin.diffusion.guidance import Guided, Known
from manykin.diffusion.likelihood import flow_error, flow_log_prob
from manykin.diffusion.oracle import GaussianMixtureDenoiser
from manykin.diffusion.schedule import SCHEDULES, Cosine, Linear, Rectified, Schedule
from manykin.diffusion.solvers import DDIM, Ancestral, DPMSolver, Euler, Heun, Solver, solve

__all__ = [
    "DDIM", "SCHEDULES", "Ancestral", "Cosine", "DPMSolver", "Denoiser", "Denoises", "Euler", "GaussianMixtureDenoiser", "Guess", "Guided", "Heun",
    "Known", "Linear", "NetworkDenoiser", "Prediction", "Rectified", "Schedule", "Solver", "Spacing", "flow_error", "flow_log_prob", "grid", "solve",
]  # fmt: skip
