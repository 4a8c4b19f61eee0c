"""MovieLens 1M through Triton's clients: what the evaluation ranked is what they get."""

import importlib
import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.serving import agreement
from cadc_rec.data.sources.raw_input import DATA_VARIABLE, locate
from tests.serving.http.conftest import KEY, ROOT, Service, run_command

pytestmark = [pytest.mark.realdata, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The bundle of a short training, and the folder of its evaluation."""
    data = os.environ.get(DATA_VARIABLE)
    if not data or locate("movielens-1m", Path(data)) is None:
        pytest.skip(f"no ml-1m.zip in ${DATA_VARIABLE}")
    folder = tmp_path_factory.mktemp("ml-1m")
    asked = (
        ROOT / "configs" / "ml-1m.toml", "--workdir", folder / "work",
        "--set", "train.epochs=2", "--set", "train.batch_size=2048", "--json",
    )  # fmt: skip
    run_command("run", *asked)
    options = ("--precision", "none", "--for", "evaluation")  # what is compared with its ranks
    done = run_command("export", *asked, "--out", folder / "bundle", *options)
    assert json.loads(done.stdout)["bundle"] == str(folder / "bundle")
    (evaluated,) = (folder / "work" / "evaluate").glob("*/ranks.parquet")
    return folder / "bundle", evaluated


@pytest.fixture(scope="module")
def running(exported, tmp_path_factory):
    service = Service(tmp_path_factory.mktemp("service"), exported[0], key=KEY, real=True)
    yield service
    assert service.stop() == 0


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_every_user_gets_the_offline_ranking(running, exported, protocol):
    module = importlib.import_module(f"tritonclient.{protocol}")
    found = agreement(module, getattr(running, protocol), KEY, pq.read_table(exported[1]))
    assert found.users == 6040
    assert found.within > 3000
    assert (found.differ, found.alone_differ) == (0, 0)
