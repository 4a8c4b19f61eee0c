"""Two machines that see nothing of each other's disks, and a store: the results of one machine.

A node is killed in each stage and loses its disk: the job goes on, and ends with the same.
"""

import pytest

from tests.nodes.conftest import artifacts
from tests.nodes.job import STAGES, Job

pytestmark = [pytest.mark.slow, pytest.mark.distributed, pytest.mark.timeout(1200)]


def ends_as_one(job, one):
    """The results of the undisturbed run of one machine, metrics among them, to the byte."""
    job.end()
    assert artifacts(job.work(job.lab.a)) == one


def test_two_nodes_without_a_shared_disk_give_the_artifacts_of_one(lab, nodes, one):
    job = Job(lab)
    job.start(*nodes)
    ends_as_one(job, one)
    of_other = artifacts(job.work(lab.b))
    assert {"train", "evaluate"} <= {name.partition("/")[0] for name in of_other}
    assert of_other.items() <= one.items()


def test_a_node_that_is_lost_in_each_stage_comes_back_without_its_disk(lab, nodes, one):
    """Its agent is started anew each time; the other node's starts its ranks again."""
    lab.store.delay(0.05)  # so that each stage lasts
    job = Job(lab, restarts=len(STAGES))
    job.start(*nodes)
    for stage in STAGES:
        job.reaches(stage)
        lab.b.kill_all()
        lab.b.wipe()
        job.start(lab.b)
    ends_as_one(job, one)
