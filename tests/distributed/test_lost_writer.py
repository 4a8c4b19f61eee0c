"""A rank that is lost while it writes its part leaves no artifact: the rest is not whole."""

import signal
import time
from pathlib import Path

import pytest

from tests import zygote

SCRIPT = Path(__file__).with_name("lost_writer_worker.py")


@pytest.mark.distributed
@pytest.mark.parametrize("writer", ["rows", "joined", "own"])
def test_nothing_is_committed_without_a_lost_ranks_part(tmp_path, writer):
    told, port = zygote.environment(), zygote.free_port()
    ranks = [
        zygote.start([SCRIPT, tmp_path, writer], told | zygote.of_rank(n, 2, port), script=True)
        for n in range(2)
    ]
    end = time.monotonic() + 120
    while None in (codes := [rank.poll() for rank in ranks]):
        assert time.monotonic() < end, "".join(rank.said for rank in ranks)
        time.sleep(0.01)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, None)
    assert not [*tmp_path.glob("evaluate/*")]
