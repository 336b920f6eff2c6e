"""Where a solver places its steps."""

from typing import Literal

import torch
from torch import Tensor

from manykin.diffusion.schedule import Schedule
from manykin.errors import InvalidInput

Spacing = Literal["uniform", "log-snr", "quadratic"]


def grid(schedule: Schedule, steps: int, spacing: Spacing = "uniform") -> Tensor:
    """Times of a walk from noise to data: ``steps`` falling times from the schedule's last one, then 0; shape (steps + 1,), float64.

    ``uniform`` in time; ``quadratic``: in its square root, which places more steps near the data (Song, Meng and Ermon, Denoising diffusion implicit
    models, 2021, appendix D.2); ``log-snr``: in the logarithm of the signal-to-noise ratio between the schedule's last and first time (Lu et al.,
    DPM-Solver, 2022, section 3.3), with still more of them there. The last step, to time 0, is taken with the guess alone: no network is asked
    outside the times that it was trained for.

    Raises:
        InvalidInput: for fewer than one step.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InvalidInput(f"num_inference_steps = {steps!r} is not possible; expected an integer of at least 1.")
    first, last = schedule.first, schedule.last
    if spacing == "log-snr":
        ends = schedule.log_snr(torch.tensor([last, first], dtype=torch.float64))
        times = schedule.time_of(torch.linspace(float(ends[0]), float(ends[1]), steps, dtype=torch.float64)).clamp(first, last)
    else:
        power = 2 if spacing == "quadratic" else 1
        lowest = max(last / steps**power, first) if steps > 1 else last
        times = torch.linspace(last ** (1 / power), lowest ** (1 / power), steps, dtype=torch.float64) ** power
        times = times.clamp(first, last)
    return torch.cat([times, torch.zeros(1, dtype=torch.float64)])
