"""Ranks of a job that has no work folder in common."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cadc_rec.errors import CadcError
from cadc_rec.pipeline.job import require_one_folder
from tests.conftest import TINY

ROOT = Path(__file__).parents[2]


class Rank:
    """One of three ranks, whose peers told it `name` and whether they see the file."""

    def __init__(self, rank, name, seen):
        self.rank, self.name, self.seen = rank, name, seen

    def broadcast(self, value):
        return value if self.rank == 0 else self.name

    def all_gather(self, value):
        assert value == self.seen[self.rank]
        return self.seen


def test_ranks_that_do_not_see_rank_0s_file_are_named(tmp_path):
    with pytest.raises(CadcError, match="rank 0 wrote a file there and rank 1, 2 does not see it"):
        require_one_folder(tmp_path / "work", Rank(0, "", [True, False, False]))
    assert not list((tmp_path / "work").iterdir())
    with pytest.raises(CadcError, match="that all nodes share with --workdir"):
        require_one_folder(tmp_path / "other", Rank(2, "seen", [True, True, False]))
    (tmp_path / "work" / "seen").touch()
    require_one_folder(tmp_path / "work", Rank(1, "seen", [True, True, True]))


@pytest.mark.slow
@pytest.mark.distributed
def test_a_job_without_a_shared_folder_ends_before_it_prepares(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    run = f"exec {sys.executable} -m cadc_rec run tiny.toml --workdir node$RANK"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, "--no-python", "bash", "-c", run],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if "does not see it" in line]
    assert said, done.stderr
    assert not list((tmp_path / "node0").iterdir())
    assert not (tmp_path / "node1").exists()
