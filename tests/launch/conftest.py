"""What the tests of launching share."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = """
seed = 3
[data]
source = "generated"
[data.generated]
users = 120
items = 80
interactions = 2500
[pretrain]
epochs = 5
factors = 15
[select]
ratio = 2
shards = 4
[model]
id_dim = 16
tower = [16, 8]
[train]
epochs = 2
batch_size = 256
[compute]
device = "cpu"
threads = 1
"""


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    """An experiment whose stages take about a second, imports aside."""
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def environment():
    """What a person has after activating the environment, in this checkout."""
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("CADC_REC_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
