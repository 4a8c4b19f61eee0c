"""A process group of this process alone."""

import pytest

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed.processes import processes


@pytest.fixture
def alone():
    with processes(ComputeConfig(device="cpu", threads=1)) as joined:
        yield joined
