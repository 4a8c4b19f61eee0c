"""Ranks without a launcher, that nobody ends but the product."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.processes import free_port
from tests.faults.world import World


@pytest.fixture
def ranks(spawn):
    """Start ``cadc-rec`` as the ranks of one job.

    Each is a node of its own, as far as it knows: no launcher ends it when another one fails.
    """

    def start(count, *arguments, of_rank=lambda _: (), first=0, port=None):
        port = port or free_port()
        return [
            spawn(
                *arguments,
                *of_rank(rank),
                RANK=str(rank),
                WORLD_SIZE=str(count),
                LOCAL_RANK="0",
                LOCAL_WORLD_SIZE="1",
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port),
                OMP_WAIT_POLICY="passive",
            )
            for rank in range(first, count)
        ]

    return start


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
    cases = [
        item.callspec.params["case"]
        for item in request.session.items
        if "case" in getattr(getattr(item, "callspec", None), "params", {})
    ]
    with ThreadPoolExecutor(2) as pool:
        running = {case.id: pool.submit(case.run, world) for case in cases}
        yield lambda case: running[case.id].result()
        for future in running.values():
            future.cancel()
