"""Frozen rows that other ranks hold: fetched as they are, a step ahead, for the same training."""

import json
from pathlib import Path

import pytest
import torch

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed.processes import processes
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
    if case.startswith("history"):  # bags are summed where they are asked for: another order
        assert runs["loss"] == pytest.approx(whole["loss"], rel=1e-6)
        return
    for name in ("loss", "vectors", "learned"):
        assert runs[name] == whole[name]


@pytest.mark.parametrize("case", CASES)
def test_a_step_fetches_each_tables_rows_once(case, two):
    """120 rows, 20 a step, for two epochs."""
    tables = {"user", "item"}
    if case.startswith("dense"):
        tables |= {"dense_user_face", "dense_item_image", "dense_item_continuous"}
    if case.startswith("history"):
        tables |= {"item_target"}
    assert two[f"{case} in_runs"]["asked"] == dict.fromkeys(tables, 2 * 120 // 20)


def test_models_built_one_after_another_exchange_through_one_group_beside_that_of_all(two):
    groups = two["groups"]
    assert groups["exchanges"] > 0
    assert groups["apart"]
    assert groups["different"] == 1


def test_the_group_beside_that_of_all_ends_with_the_processes():
    compute = ComputeConfig(device="cpu", threads=1)
    with processes(compute) as joined:
        before = joined.device_group()
        assert joined.device_group() is before
    with processes(compute) as joined:
        assert joined.device_group() is not before
        torch.distributed.all_reduce(torch.ones(1), group=joined.device_group())
