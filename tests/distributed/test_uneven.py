"""Ranks with different numbers of rows, with none, or with no table: no hang, no row lost."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from tests.zygote import run_ranks

pytestmark = pytest.mark.distributed

ROWS = 120
EPOCHS = 2
# Three ranks; under table_wise two tables, so that one rank has none.
CASES = [
    "init_frozen:table_wise:40,40,40",
    "init_frozen:table_wise:113,7,0",
    "trainable:table_wise:1,0,119",
    "trainable:data_parallel:120,0,0",
    "whole-init_frozen:column_wise:118,1,1",
    "history:table_wise:0,60,60",
]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    out = tmp_path_factory.mktemp("three") / "results.json"
    run_ranks(Path(__file__).with_name("worker.py"), [out, *CASES], ranks=3, seconds=240)
    return json.loads(out.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_row_is_used_exactly_once_an_epoch(case, three):
    shares = [int(n) for n in case.split(":")[2].split(",")]
    of_ranks = three[case]["rows_used"]
    assert [len(rows) for rows in of_ranks] == [EPOCHS * share for share in shares]
    for epoch in range(EPOCHS):
        used = Counter()
        for rows, share in zip(of_ranks, shares, strict=True):
            used.update(rows[epoch * share : (epoch + 1) * share])
        assert used == Counter(range(ROWS))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow
def test_training_goes_well_on_all_of_them(case, three):
    result = three[case]
    assert len(result["loss"]) == EPOCHS
    assert all(map(math.isfinite, result["loss"]))
    assert result["intact"]
    assert result["streamed"]


@pytest.mark.slow
def test_a_rank_without_any_table_takes_part(three):
    held = [rank[0] for rank in three["init_frozen:table_wise:113,7,0"]["tables_of"]]
    assert sorted(held) == [False, True, True]
