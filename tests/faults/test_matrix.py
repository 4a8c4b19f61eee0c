"""The fault matrix: whatever ends a run, the same command ends it as if nothing had happened."""

import pytest

from tests.faults import damage, disks, kills, launchers
from tests.share import share

# The longest first.
CASES = [*launchers.CASES, *kills.CASES, *damage.CASES, *disks.CASES]
GROUPS = {
    group: [case for case in CASES if case.group == group]
    for group in {case.group: 0 for case in CASES}
}
CHOSEN = share("fault matrix").cases(GROUPS)

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


@pytest.mark.timeout(900)  # the first one waits for what all share
@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.id)
def test_the_run_resumed_ends_at_the_metrics_of_an_undisturbed_one(case, world, record_property):
    record_property("group", case.group)
    record_property("name", case.name)
    case.run(world)
