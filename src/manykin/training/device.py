"""Devices, precision and processes, all through Lightning Fabric."""

import atexit
import ctypes
import logging
import os
import platform
import resource
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from manykin.contract import ClosedForm, GenerativeModel
from manykin.errors import InvalidInput, ManykinWarning
from manykin.nn.hardware import has_bf16
from manykin.training.options import TrainOptions

if TYPE_CHECKING:
    from lightning_fabric import Fabric


MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Numbers of the options in malloc.h."""

LARGEST_BLOCK, KEPT = 1 << 25, 1 << 30
"""Bytes of the largest block that glibc can be asked to keep, and of what is kept at the top of its heap."""


def rank() -> int:
    """The number of this process among those that train together; 0 writes."""
    return int(os.environ.get("RANK", "0")) if world() > 1 else 0


def world() -> int:
    """How many processes train together, as ``torch.distributed.run`` says."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


@cache
def keep_memory() -> bool:
    """Ask glibc to keep what a step frees for the next one; whether it does.

    By default it gives large blocks back to the system and has them filled with zeros, page by page, at the next step: until its own thresholds have
    grown, which takes some dozens of steps, these can last three times as long. Blocks above 32 MiB are given back whatever is asked. Where the
    environment sets thresholds (``MALLOC_...``, ``GLIBC_TUNABLES``), or the C library is another, nothing is changed.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ) or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(option, size) == 1 for option, size in ((MMAP_THRESHOLD, LARGEST_BLOCK), (TRIM_THRESHOLD, KEPT)))


def connect(options: TrainOptions) -> "Fabric":
    """A Fabric on the chosen device and precision, with one process or as many as ``torch.distributed.run`` started.

    Raises:
        InvalidInput: for a device that is not known or not there.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    device = choose_device("auto" if options.device is None else options.device)
    if device.type == "cpu":
        keep_memory()
    precision = choose_precision(options.precision or "auto", device)
    if world() == 1:
        index = device.index or 0
        return Fabric(accelerator=device.type, devices=1 if device.type != "cuda" else [index], precision=precision)
    fabric = Fabric(
        accelerator=device.type,
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", world())),
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        strategy=DDPStrategy(process_group_backend="nccl" if device.type == "cuda" else "gloo"),
        plugins=[TorchElasticEnvironment()],
        precision=precision,
    )
    fabric.launch()
    atexit.register(leave_processes)
    return fabric


def leave_processes() -> None:
    """End the connection among processes before the interpreter ends: gloo's threads abort a process that leaves with them running."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def choose_device(name: str) -> torch.device:
    """The device behind an option.

    ``auto`` takes CUDA where there is one, else the CPU: models keep statistics in float64, which Apple's GPUs do not have.

    Raises:
        InvalidInput: for a device that is not known or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    there = {"cpu": True, "cuda": (device.index or 0) < torch.cuda.device_count(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.type, False):
        known = [kind for kind, ok in there.items() if ok and (kind != "cuda" or torch.cuda.is_available())]
        raise InvalidInput(f"train.device = {name!r} is not here; expected auto or {' or '.join(known)}.")
    return device


def choose_precision(name: str, device: torch.device) -> Literal["32-true", "bf16-mixed"]:
    """Fabric's name of a precision; bf16 only where the hardware multiplies it, else 32 bits with a warning."""
    if name != "bf16":
        return "32-true"
    if has_bf16(device):
        return "bf16-mixed"
    warnings.warn(f"this {device.type} does not multiply bf16: training in 32 bits.", ManykinWarning, stacklevel=3)
    return "32-true"


def count_parameters(model: GenerativeModel) -> int:
    """Numbers that the model has learned: its parameters, or for a model without any its floating buffers outside transform and statistics."""
    learned = sum(p.numel() for p in model.parameters())
    if learned:
        return learned
    spare = {name for phase in model.phases() if isinstance(phase, ClosedForm) for name in phase.statistics}
    fixed = ("transform.", "condition_frequencies")
    kept = [b for name, b in model.named_buffers() if name not in spare and not name.startswith(fixed)]
    return sum(b.numel() for b in kept if b.is_floating_point())


def reset_peak_memory(device: torch.device) -> None:
    """Begin to watch for the peak of memory, where the system lets a process do so."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: torch.device) -> int:
    """The peak since :func:`reset_peak_memory`: of the device's memory on CUDA, else of the whole process's resident memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
