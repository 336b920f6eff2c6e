"""Where a solver places its steps."""

from typing import Literal

import torch
from torch import Tensor

from manykin.diffusion.schedule import Schedule
from manykin.errors import InvalidInput

Spacing = Literal["uniform", "log-snr", "quadratic"]


def grid(schedule: Schedule, steps: int, spacing: Spacing = "uniform") -> Tensor:
    """Times of a walk from noise to data: ``steps`` decreasing times between the schedule's last and first, then 0; shape (steps + 1,), float64.

    ``uniform`` in time; ``log-snr``: uniform in the logarithm of the signal-to-noise ratio (Lu et al., DPM-Solver, 2022, section 3.3), which places
    more steps near the data; ``quadratic``: between both (Song, Meng and Ermon, Denoising diffusion implicit models, 2021, appendix D.2). The last
    step, to time 0, is taken with the guess alone: no network is asked outside the times that it was trained for.

    Raises:
        InvalidInput: for fewer than one step.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InvalidInput(f"num_inference_steps = {steps!r} is not possible; expected an integer of at least 1.")
    first, last = torch.tensor([schedule.first, schedule.last], dtype=torch.float64)
    share = torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1) if spacing == "log-snr" else torch.arange(steps, dtype=torch.float64) / steps
    if spacing == "uniform":
        times = last * (1 - share)
    elif spacing == "quadratic":
        times = last * (1 - share) ** 2
    else:
        ends = schedule.log_snr(torch.stack([last, first]))
        times = schedule.time_of(ends[0] + share * (ends[1] - ends[0]))
    return torch.cat([times.clamp(first, last), torch.zeros(1, dtype=torch.float64)])
