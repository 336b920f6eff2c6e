"""Shared fixtures. Tests run on one thread a worker so that two workers share two cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_COLOR", "1")

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def data_folder() -> Path:
    """The folder of real data sets; slow tests that need it fail where it is not named."""
    place = os.environ.get("MANYKIN_DATA")
    if not place:
        pytest.fail("MANYKIN_DATA is not set; name the folder that holds mnist/ and fashion_mnist/, for example MANYKIN_DATA=../shared/data")
    return Path(place)
