"""A stage that one rank carries out may take longer than the others wait for a collective."""

from pathlib import Path

import pytest

from tests.distributed.test_sharding import run_ranks

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def test_ranks_that_hear_that_rank_0_still_works_wait_for_it_beyond_the_time_out(tmp_path):
    out = tmp_path / "ranks"
    run_ranks(Path(__file__).with_name("waiting.py"), [out], ranks=2, seconds=90)
    assert out.read_text() == "[0, 1]"
