"""Which worker of pytest-xdist runs which tests: those of a file go to one, long files first.

The tests of a file often share what is dear to make, so one worker makes it, once. Where they share
nothing, each may run anywhere. (xdist's own groups do nothing under pytest 9.2: xdist 3.8 writes
them to an attribute that is no longer read.)
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

# Each of their tests may run on any worker.
APART = ("tests/faults/", "tests/cli/test_cli.py", "tests/launch/test_components.py")
# Begun first, in this order, so that no long one is left when the others have ended.
LONG = (
    "tests/store/",  # forks by the hundred, dear once the worker has grown
    "tests/nodes/",
    "tests/faults/test_elastic.py",
    "tests/launch/test_slurm.py",
    "tests/test_movielens_1m.py",
    "tests/distributed/",
    "tests/faults/",
    "tests/cli/test_cli.py",
    "tests/updates/",
    "tests/export/",
    "tests/study/",
)


def place(nodeid: str) -> int:
    """Where in the order of `LONG` a test belongs; all others come after these."""
    places = [n for n, start in enumerate(LONG) if nodeid.startswith(start)]
    return min(places, default=len(LONG))


class ByFile(LoadScopeScheduling):
    """Deals files, in the order of the tests."""

    def __init__(self, config: pytest.Config, log: object = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # most tests first, as if they took alike

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if file.startswith(APART) else file
