"""What a run and an update load: tables alone need none of what trains towers."""

import subprocess
import sys

import pytest

from tests.updates.conftest import INTERACTIONS, day_rows, write_table

CODE = """
import sys
from pathlib import Path
from cadc_rec import api
from cadc_rec.updates.update import carry_on
config, workdir, day = map(Path, sys.argv[1:])
experiment = api.load(config, method="prior")
api.run(experiment, workdir=workdir)
assert carry_on(experiment, workdir, day).update is not None
print(*sorted(name for name in sys.modules if "." not in name))
"""


@pytest.mark.slow
def test_a_run_and_an_update_of_tables_alone_load_no_torchrec(config, tmp_path):
    write_table(tmp_path / "day" / "interactions.parquet", day_rows(), INTERACTIONS)
    command = [sys.executable, "-c", CODE, config, tmp_path / "work", tmp_path / "day"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"torch", "duckdb"} <= loaded
    assert not loaded & {"torchrec", "fbgemm_gpu", "numba", "tensordict", "sympy"}
