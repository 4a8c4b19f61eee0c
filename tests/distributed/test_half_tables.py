"""Frozen tables stored as fp16, under every sharding type; and what is refused."""

import subprocess
import sys

import pytest
import torch

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed.processes import processes
from cadc_rec.errors import CadcError
from tests.distributed import toy
from tests.zygote import environment

pytestmark = pytest.mark.distributed


@pytest.fixture
def stored(monkeypatch):
    """Train a case of `toy` with other ``[sharding]`` settings, on one process."""
    plain = toy.experiment

    def train(ids, kind, **settings):
        def experiment(*case):
            e = plain(*case)
            return e.model_copy(update={"sharding": e.sharding.model_copy(update=settings)})

        monkeypatch.setattr(toy, "experiment", experiment)
        with processes(ComputeConfig(device="cpu", threads=1)) as alone:
            return toy.train(ids, kind, alone)

    return train


@pytest.mark.parametrize("kind", ["data_parallel", "table_wise", "column_wise"])
@pytest.mark.parametrize("ids", ["init_frozen", "prior"])
def test_a_frozen_table_in_half_precision_trains_nearly_alike_and_stays(ids, kind, stored):
    whole = stored(ids, kind)
    half = stored(ids, kind, frozen_storage="fp16")
    assert half["intact"]
    # A rounding of 2^-11 of each input.
    assert half["loss"] == pytest.approx(whole["loss"], rel=1e-3)
    assert half["loss"] != whole["loss"]


def test_the_stored_elements_are_the_rounded_ones(stored, monkeypatch):
    kept = {}
    monkeypatch.setattr(
        toy,
        "digests",
        lambda model, joined, keep=toy.main_id_tables: kept.update(
            toy.gather_state(model.wrapped, joined, keep)
        ),
    )
    stored("init_frozen", "data_parallel", frozen_storage="fp16")
    given = toy.tables()
    for side in ("user", "item"):
        table = kept[f"{side}.ids.table.embedding_bags.{side}.weight"]
        assert table.dtype == torch.float16
        assert torch.equal(table, getattr(given, side).half())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"frozen_storage": "int8"}, "frozen_storage = 'int8' can be planned"),
        ({"communication": "bf16"}, "communication = 'bf16' needs CUDA"),
        ({"frozen_kernel": "fused_uvm"}, "'fused_uvm' of table user needs CUDA"),
        ({"host_memory": "1KB"}, "no sharding plan fits this model on 1 processes"),
    ],
)
def test_what_this_machine_cannot_do_is_refused_in_a_sentence(settings, said, stored):
    with pytest.raises(CadcError, match=said) as refused:
        stored("init_frozen", "table_wise", **settings)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_all_ranks_of_torchrun_end_with_one_sentence_of_rank_0(tiny, tmp_path):
    """Other refusals, and ranks without a launcher: `tests/faults/test_ranks.py`."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    sets = ("--set", "sharding.frozen=table_wise", "--set", "sharding.host_memory=1KB")
    train = ("-m", "cadc_rec", "train", str(tiny), "--workdir", str(tmp_path / "work"), *sets)
    done = subprocess.run(
        [sys.executable, *launcher, *train],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    # Ours, and as the cause in torchrun's own summary.
    assert done.stderr.count("no sharding plan fits") == 2, done.stderr[-3000:]
    assert "exitcode  : 2" in done.stderr
    assert "exitcode  : 1 " not in done.stderr
    assert not list((tmp_path / "work" / "train").glob("*"))


@pytest.mark.slow
def test_a_missing_rendezvous_is_told_how_to_start(tiny, tmp_path, spawn):
    process = spawn(
        *("train", tiny, "--workdir", tmp_path), RANK="0", WORLD_SIZE="2", LOCAL_RANK="0"
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "could not join its peers" in err
    assert "torchx or torchrun" in err
    assert "Traceback" not in err
