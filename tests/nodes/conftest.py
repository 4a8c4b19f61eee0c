"""What the tests of several machines share: the machines, and the results of one node."""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests import zygote
from tests.nodes.job import CONFIG, STAGES
from tests.nodes.machines import Lab, NotPermittedError


@pytest.fixture(scope="session")
def lab():
    """A store and two nodes."""
    folder = Path(tempfile.mkdtemp(prefix="lab-"))
    try:
        try:
            made = Lab(folder)
        except (NotPermittedError, FileNotFoundError) as error:
            pytest.skip(f"namespaces and virtual networks are not permitted here: {error}")
        try:
            yield made
        finally:
            made.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def one(lab):
    """Artifacts' bytes by name, of four ranks of one machine with a local folder.

    They are told that two of them are a node: TorchRec's planner places tables by that, and with
    the plan the rounding of a training changes.
    """
    (lab.a.disk / "tmp/home/job.toml").write_text(CONFIG)
    command = ["run", "job.toml", "--workdir", "/tmp/home/local"]
    port = zygote.free_port()
    told = [
        zygote.of_rank(rank, 4, port) | {"LOCAL_RANK": str(rank % 2), "LOCAL_WORLD_SIZE": "2"}
        for rank in range(4)
    ]
    ranks = [lab.a.start(command, **of_rank) for of_rank in told]
    assert [rank.wait(300) for rank in ranks] == [0] * 4, "".join(rank.said for rank in ranks)
    return artifacts(lab.a.disk / "tmp/home/local")


def artifacts(workdir):
    """Every file of every stage but the manifests."""
    return {
        str(file.relative_to(workdir)): file.read_bytes()
        for stage in STAGES
        for file in (workdir / stage).rglob("*")
        if file.is_file() and file.name != "manifest.json"
    }


@pytest.fixture
def nodes(lab, one):
    """Both nodes with empty disks; what a test left running there is killed."""
    for node in lab.nodes:
        node.wipe()
    lab.store.delay(0)
    yield lab.nodes
    lab.store.delay(0)
    lab.store.refuse()
    lab.store.revive()
    for node in lab.nodes:
        node.kill_all()
