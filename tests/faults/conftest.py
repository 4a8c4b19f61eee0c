"""The matrix: its cases are run ahead of their tests, two at a time, and their outcomes kept."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.world import Case, World

OUTCOMES = pytest.StashKey[list]()


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """What the cases of the matrix share."""
    shared = World(tmp_path_factory.mktemp("faults"))
    yield shared
    shared.zygote.close()


@pytest.fixture(scope="session")
def matrix(world, request):
    """The outcome of a case; all that were collected are run, two at a time, ahead of their tests.

    Each is a process of one thread for most of its time, and two cores are what there is.
    """
    cases = [case for item in request.session.items if (case := case_of(item))]
    with ThreadPoolExecutor(2) as pool:
        running = {case.id: pool.submit(case.run, world) for case in cases}
        yield lambda case: running[case.id].result()
        for future in running.values():
            future.cancel()


def case_of(item):
    """The case that a test is of; None for other tests, some of which have a ``case`` as well."""
    case = getattr(getattr(item, "callspec", None), "params", {}).get("case")
    return case if isinstance(case, Case) else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Keep what came of each case."""
    report = yield
    case = case_of(item)
    if case is not None and (call.when == "call" or not report.passed):
        kept = item.session.config.stash.setdefault(OUTCOMES, [])
        kept.append({"group": case.group, "name": case.name, "outcome": report.outcome})
    return report


def pytest_sessionfinish(session):
    """Write the outcomes where they are asked for, see `tests.faults.table`."""
    path = os.environ.get("CADC_REC_FAULTS")
    kept = session.config.stash.get(OUTCOMES, [])
    if path and kept:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(kept, indent=1))
