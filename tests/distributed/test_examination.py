"""What ``doctor --distributed`` finds wrong between ranks, and what it prints of real ones."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cadc_rec.distributed.examination import RankFound, listed, problems
from tests.faults.world import begin

WELL = RankFound(0, "n1 (7)", "cpu", 4, "", 10**12, 0.0, True, {"torch": "2.13.0"})
WORKDIR = Path("/shared/work")


def told(**changed):
    """The problems of four ranks, the last of which differs."""
    ranks = [replace(WELL, rank=rank, host=f"n{rank} (7)") for rank in range(3)]
    return problems([*ranks, replace(WELL, rank=3, host="n3 (7)", **changed)], WORKDIR)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"folder": "cannot be written (Read-only file system)"}, "/shared/work cannot be written"),
        ({"free_bytes": 10**9}, "less than 2 GB are free at /shared/work"),
        ({"clock": -3600.0}, "the clock of n3 (7) is 3,600 s behind rank 0's; set it by NTP"),
        ({"sums": False}, "an all-reduce gave a wrong sum"),
        ({"versions": {"torch": "2.12.1"}}, "torch is 2.12.1 there and 2.13.0 elsewhere"),
        ({"versions": {}}, "torch is none there and 2.13.0 elsewhere"),
    ],
)
def test_each_problem_is_one_sentence_with_its_ranks(changed, said):
    (sentence,) = told(**changed)
    assert sentence.startswith("rank 3: ")
    assert said in sentence
    assert sentence.endswith(".")


def test_ranks_that_are_alike_have_no_problem():
    assert told() == []


def test_ranks_that_share_a_gpu_are_told():
    both = [replace(WELL, rank=rank, device="cuda:0 H100") for rank in range(2)]
    assert problems(both, WORKDIR) == [
        "2 ranks of n1 share cuda:0 H100; start as many processes as GPUs."
    ]


def test_ranks_are_listed_in_runs():
    assert listed([3]) == "rank 3"
    assert listed([9, 0, 1, 2, 5, 6]) == "ranks 0-2, 5-6, 9"


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_that_can_work_together_print_a_row_each(tmp_path):
    run = begin(["doctor", "--distributed", "--json", "--workdir", tmp_path / "work"], 2)
    assert run.wait() == [0, 0], run.err
    document = json.loads((run.output[0] / "stdout").read_text())
    assert document["ok"]
    assert [each["rank"] for each in document["ranks"]] == [0, 1]
    assert document["all_reduce_bytes_per_second"] > 0
    assert list((tmp_path / "work").iterdir()) == []
    assert (run.output[1] / "stdout").read_text() == ""


@pytest.mark.slow
@pytest.mark.distributed
def test_ranks_with_folders_of_their_own_are_refused_with_a_sentence(tmp_path):
    (tmp_path / "b").mkdir()
    run = begin(["doctor", "--distributed"], 2, lambda rank: ["--workdir", tmp_path / "ab"[rank]])
    assert run.wait() == [2, 2], run.err
    said = (run.output[0] / "stderr").read_text()
    assert f"error: rank 0: {tmp_path / 'a'} does not show what rank 1 wrote; name" in said
    assert (run.output[1] / "stderr").read_text() == ""
