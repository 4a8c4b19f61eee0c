"""The fault matrix: whatever ends a run, the same command ends it as if nothing had happened."""

import pytest

from tests.faults import kills

CASES = [*kills.CASES]

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_run_resumed_ends_at_the_metrics_of_an_undisturbed_one(case, matrix):
    matrix(case)
