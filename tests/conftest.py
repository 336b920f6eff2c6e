"""Shared fixtures. Tests run on one thread a worker so that two workers share two cores, and never write into the user's cache."""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_COLOR", "1")
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ.setdefault("MPLCONFIGDIR", os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "matplotlib"))
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="manykin-tests-")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

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
