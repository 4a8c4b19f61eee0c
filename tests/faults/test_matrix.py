"""The fault matrix: whatever ends a run, the same command ends it as if nothing had happened."""

import pytest

from tests.faults import damage, disks, kills, launchers

# The longest first: two are run at a time.
CASES = [*launchers.CASES, *kills.CASES, *damage.CASES, *disks.CASES]

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


@pytest.mark.timeout(900)  # the first one waits for what all share
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_run_resumed_ends_at_the_metrics_of_an_undisturbed_one(case, matrix):
    matrix(case)
