"""Sixteen ranks of a tiny model on two cores; ``CADC_REC_MANY_RANKS=64`` has as many as that.

They are forks of one parent that has loaded the libraries, so that starting them costs little.
"""

import hashlib
import json
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed.processes import processes
from tests.distributed import toy
from tests.faults.processes import until
from tests.faults.world import begin
from tests.zygote import run_ranks

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(1800)]

RANKS = int(os.environ.get("CADC_REC_MANY_RANKS", "16"))
ROWS, EPOCHS = 120, 2  # of `toy.train`
SHARES = [ROWS - RANKS // 2, *[0, 1] * (RANKS // 2)][:RANKS]
SHARES[0] += ROWS - sum(SHARES)
KINDS = ("data_parallel", "table_wise", "column_wise", "table_column_wise")
UNEVEN = f"init_frozen:table_wise:{','.join(map(str, SHARES))}"
TRAINED = [f"init_frozen:{kind}" for kind in KINDS]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    out = tmp_path_factory.mktemp("many") / "results.json"
    work = [*TRAINED, UNEVEN, "pretraining"]
    run_ranks(Path(__file__).with_name("worker.py"), [out, *work], RANKS, seconds=1200)
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def alone():
    with processes(ComputeConfig(device="cpu", threads=1)) as joined:
        return toy.pretraining(joined)


def test_pretraining_is_that_of_one_process(many, alone):
    for kind in ("factorize", "softmax", "als"):
        for theirs, ours in zip(alone[kind], many[kind], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4), kind
    for theirs, ours in zip(alone["factorize"], many["partitioned"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    assert many["columns"] == alone["columns"]


def test_every_sharding_of_cpu_learns_the_same_and_leaves_frozen_tables_as_they_were(many):
    given = toy.tables()
    bits = sorted(
        hashlib.sha256(table.numpy().tobytes()).hexdigest() for table in (given.user, given.item)
    )
    for case in TRAINED:
        assert many[case]["intact"], case
        assert sorted(many[case]["tables"].values()) == bits, case
        assert many[case]["loss"] == pytest.approx(many[TRAINED[0]]["loss"], rel=1e-5), case


def test_with_shares_from_none_to_nearly_all_every_row_is_used_once_an_epoch(many):
    used = many[UNEVEN]["rows_used"]
    assert [len(rows) for rows in used] == [EPOCHS * share for share in SHARES]
    for epoch in range(EPOCHS):
        rows = Counter()
        for mine, share in zip(used, SHARES, strict=True):
            rows.update(mine[epoch * share : (epoch + 1) * share])
        assert rows == Counter(range(ROWS))


@pytest.mark.skipif("CADC_REC_MANY_RANKS" not in os.environ, reason="takes minutes")
def test_a_rank_is_lost_and_comes_back_and_the_end_is_that_of_an_undisturbed_run(tiny, tmp_path):
    sets = ("method=gold", "train.epochs=4", f"select.shards={RANKS}", "checkpoint.every_epochs=1")
    settings = [word for setting in sets for word in ("--set", setting)]

    def training(workdir):
        return begin(["train", tiny, "--workdir", workdir, *settings, "--json"], RANKS)

    def losses(run):
        info = json.loads((run.output[0] / "stdout").read_text())["info"]
        return [entry["loss"] for entry in info["history"]]

    undisturbed, lost = training(tmp_path / "undisturbed"), RANKS - 1
    assert undisturbed.wait(900) == [0] * RANKS, undisturbed.err
    run = training(tmp_path / "disturbed")
    saved = (tmp_path / "disturbed").glob
    until(lambda: any(saved("checkpoints/[!p]*/0*-step-*")) or not run.running(), seconds=900)
    run.signal(signal.SIGKILL, [lost])
    assert run.wait(900) == [2] * lost + [-signal.SIGKILL], run.err
    again = training(tmp_path / "disturbed")
    assert again.wait(900) == [0] * RANKS, again.err
    assert "resuming from" in again.err
    assert losses(again) == pytest.approx(losses(undisturbed), rel=1e-6)
