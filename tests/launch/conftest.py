"""What the tests of launching share."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def environment():
    """What a person has after activating the environment, in this checkout."""
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("CADC_REC_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
