"""The toy world of the sharding tests, and a process group of this process alone."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "distributed"))

from cadc_rec.config import ComputeConfig
from cadc_rec.distributed.processes import processes


@pytest.fixture(scope="module")
def alone():
    with processes(ComputeConfig(device="cpu", threads=1)) as joined:
        yield joined
