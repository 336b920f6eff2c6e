"""Randomness as a function: every draw follows from a seed and a place, never from what ran before.

The trainer seeds each step with ``hash_seed(seed, step, ...)`` and sampling seeds each block with ``hash_seed(seed, block)``. Nothing therefore
needs a generator's state: evaluation cannot disturb training, and a resumed run draws what the uninterrupted one would have drawn.
"""

import hashlib
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

LOCK = threading.RLock()
"""Held by whoever seeds the global generators or switches a model's mode: both belong to the whole process."""

_MAX_SEED = 2**63 - 1


def hash_seed(*parts: int | str) -> int:
    """A 63-bit seed from integers and strings; the same on every platform and in every version of Python.

    >>> hash_seed(0, "step", 1) == hash_seed(0, "step", 1) != hash_seed(0, "step", 2)
    True
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") & _MAX_SEED


def fresh_seed() -> int:
    """An unpredictable 31-bit seed, short enough to be read out and typed again."""
    return secrets.randbits(31)


def seed_all(seed: int) -> None:
    """Seed the global generators of the CPU and of every accelerator in use: microseconds, so that each training step can afford it."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block under torch's global generators seeded with ``seed``, and put their state back afterwards.

    Global generators serve the whole process, hence one re-entrant lock: two threads that sample wait for each other.
    """
    with LOCK:
        cpu = torch.default_generator.get_state()
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
        try:
            seed_all(seed)
            yield
        finally:
            torch.default_generator.set_state(cpu)
            if cuda:
                torch.cuda.set_rng_state_all(cuda)
            if mps is not None:
                torch.mps.set_rng_state(mps)


def generator(seed: int, *parts: int | str) -> torch.Generator:
    """A CPU generator of its own for ``hash_seed(seed, *parts)``: splits, shuffles and toy data use it."""
    return torch.Generator().manual_seed(hash_seed(seed, *parts))
