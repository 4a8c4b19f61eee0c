"""The matrix: what its cases share, and their outcomes kept for its table."""

import json
import os
from pathlib import Path

import pytest

from tests.faults.world import World


@pytest.fixture(scope="session")
def world(tmp_path_factory, once):
    """What the cases of the matrix share."""
    return World(tmp_path_factory.mktemp("faults"), once)


class Outcomes:
    """Collects what came of each case, from all workers of pytest."""

    def __init__(self) -> None:
        self.kept = {}

    def pytest_runtest_logreport(self, report):
        """A case is not passed where its setup or its end is not."""
        told = dict(report.user_properties)
        if "group" in told and (report.when == "call" or not report.passed):
            self.kept[report.nodeid] = {**told, "outcome": report.outcome}

    def pytest_sessionfinish(self):
        """Write the outcomes where they are asked for, see `tests.faults.table`."""
        path = os.environ.get("CADC_REC_FAULTS")
        if path and self.kept:
            from tests.faults.test_matrix import CASES

            order = [(case.group, case.name) for case in CASES]  # not that in which they ended
            kept = sorted(
                self.kept.values(), key=lambda told: order.index((told["group"], told["name"]))
            )
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(json.dumps(kept, indent=1))


def pytest_configure(config):
    """Where reports arrive: in the process that was started, not in its workers."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Outcomes())
