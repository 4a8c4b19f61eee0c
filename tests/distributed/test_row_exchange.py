"""Frozen rows that other ranks hold: fetched as they are, a step ahead, for the same training."""

import json
from pathlib import Path

import pytest

from tests.zygote import run_ranks

pytestmark = pytest.mark.distributed

CASES = ["init_frozen", "dense-init_frozen", "history:step by step"]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    out = tmp_path_factory.mktemp("exchange") / "results.json"
    worker = Path(__file__).with_name("exchange_worker.py")
    run_ranks(worker, [out, *CASES], ranks=2, seconds=120)
    return json.loads(out.read_text())


@pytest.mark.parametrize("case", CASES)
def test_runs_of_rows_train_as_whole_tables_do_to_the_bit(case, two):
    whole, runs = two[f"{case} build_model"], two[f"{case} in_runs"]
    assert {"user", "item"} <= set(runs["asked"])
    if case.startswith("history"):  # bags are summed where they are asked for: another order
        assert runs["loss"] == pytest.approx(whole["loss"], rel=1e-6)
        return
    for name in ("loss", "vectors", "learned"):
        assert runs[name] == whole[name]
