"""What a rank measures of its steps: where the time went, and what that costs."""

import json
import logging
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cadc_rec import log as log_module
from cadc_rec.config.experiment import TrainConfig
from cadc_rec.data.load.batches import Batch
from cadc_rec.training.intervals import Measured, Meter, Untold, Waits, slowest
from cadc_rec.training.trainer import Trainer
from tests.zygote import run_ranks

DATA_SECONDS, STEP_SECONDS = 0.25, 0.75  # exact in binary


class Told:
    """Remembers what it is told."""

    def __init__(self):
        self.intervals, self.epochs = [], []

    def interval(self, mine):
        self.intervals.append(mine)

    def epoch(self, of_ranks, slowest):
        self.epochs.append((of_ranks, slowest))


@pytest.fixture
def clock(monkeypatch):
    """A clock that only work moves."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(time, "perf_counter", lambda: now.seconds)
    return now


def a_trainer(alone, meter, clock=None, steps=10, epochs=1):
    """Its data take a quarter of a second a step, and its steps three; step n's loss is n."""

    def passes(seconds):
        if clock is not None:
            clock.seconds += seconds

    def epoch(*_):
        for _ in range(steps):
            passes(DATA_SECONDS)
            yield Batch(np.zeros(0, np.int64), np.zeros(0, np.int64), 0)

    model = torch.nn.Linear(1, 1)
    config = TrainConfig(epochs=epochs, average_epochs=0.0)
    loader = SimpleNamespace(steps=steps, rows=80, rows_here=40, epoch=epoch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, optimizer, loader, config, alone, lambda name: True, meter=meter)
    taken = []

    def step(*_):
        passes(STEP_SECONDS)
        taken.append(torch.tensor(float(len(taken))))
        return taken[-1]

    trainer.step = step
    return trainer


def test_an_interval_tells_speed_waits_and_loss_of_its_own_steps(alone, clock):
    told = Told()
    meter = Meter(4.0, torch.nn.Linear(1, 1), alone, told)
    a_trainer(alone, meter, clock).fit(None)
    # Ten steps of a second: intervals of four, four, and what is left of the epoch.
    assert [(each.step, each.steps, each.seconds) for each in told.intervals] == [
        (4, 4, 4.0),
        (8, 4, 4.0),
        (10, 2, 2.0),
    ]
    assert [each.waiting_seconds for each in told.intervals] == [1.0, 1.0, 0.5]
    assert [each.positives for each in told.intervals] == [16.0, 16.0, 8.0]  # 4 of 40 a step
    assert [each.loss for each in told.intervals] == [0 + 1 + 2 + 3, 4 + 5 + 6 + 7, 8 + 9]
    assert {each.exchange_seconds for each in told.intervals} == {0.0}
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    assert told.intervals[-1].host_memory_bytes == pytest.approx(resident, rel=0.2)
    assert told.epochs == []  # one rank gathers nothing


def test_steps_are_counted_over_all_epochs_and_validation_is_in_no_interval(alone, clock):
    told = Told()

    def validate():
        clock.seconds += 100.0
        return {"ndcg@10": 0.0}

    meter = Meter(60.0, torch.nn.Linear(1, 1), alone, told)
    a_trainer(alone, meter, clock, epochs=3).fit(validate)
    assert [(each.epoch, each.step, each.seconds) for each in told.intervals] == [
        (1, 10, 10.0),
        (2, 20, 10.0),
        (3, 30, 10.0),
    ]


def test_a_ranks_log_has_each_interval(alone, clock):
    kept = []
    handler = logging.Handler()
    handler.emit = kept.append
    log_module.rank_files.append(handler)
    try:
        meter = Meter(5.0, torch.nn.Linear(1, 1), alone, Untold())
        a_trainer(alone, meter, clock).fit(None)
    finally:
        log_module.rank_files.remove(handler)
    first, second = (record for record in kept if "interval" in getattr(record, "measured", {}))
    assert first.getMessage() == (
        "step 5: 4 positives/s, 25.0% of the time waiting for data, 0.0% in exchange"
    )
    assert second.measured["interval"]["step"] == 10
    json.dumps(second.measured)


def test_within_an_interval_no_tensor_is_read(alone, monkeypatch):
    reads = []
    for name in ("__float__", "item", "tolist", "numpy", "__bool__"):
        real = getattr(torch.Tensor, name)

        def spy(*given, real=real):
            reads.append(1)
            return real(*given)

        monkeypatch.setattr(torch.Tensor, name, spy)

    def counted(meter, steps):
        reads.clear()
        a_trainer(alone, meter, steps=steps).fit(None)
        return len(reads)

    plain = counted(None, 10)
    # At the start of an epoch and at its end, however many steps there are.
    for steps in (10, 100):
        assert counted(Meter(3600.0, torch.nn.Linear(1, 1), alone, Untold()), steps) == plain + 2
    assert counted(Meter(0.0, torch.nn.Linear(1, 1), alone, Untold()), 10) == plain


def test_waits_end_with_what_they_waited_for():
    closed = []

    def given():
        try:
            yield from range(3)
        finally:
            closed.append(True)

    waits = Waits()
    assert list(waits.over(given())) == [0, 1, 2]
    steps = waits.over(given())
    next(steps)
    steps.close()
    assert closed == [True, True]


def interval(steps, seconds, exchange):
    return Measured(1, steps, steps, seconds, 8.0, 0.0, exchange, 0.0, 1, 0)


def test_the_slowest_rank_is_the_one_that_others_wait_for():
    # All take as long, for they wait for each other; rank 1 waits least.
    ranks = [[interval(10, 5.0, 3.0)], [interval(4, 2.0, 0.1), interval(6, 3.0, 0.2)]]
    assert slowest([*ranks, [interval(10, 5.0, 2.0)]]) == 1


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_tell_of_the_slower_one_and_of_rows_and_gradients_they_exchange(tmp_path):
    out = tmp_path / "told.json"
    worker = Path(__file__).with_name("interval_worker.py")
    run_ranks(worker, [out], ranks=2, seconds=120)
    for case, epochs in json.loads(out.read_text()).items():
        assert epochs["loss"] == pytest.approx(epochs["loss_by_rank"], rel=1e-5), case
        for of_ranks, slow in epochs["told"]:
            assert slow == 1, case
            for mine in of_ranks:
                assert sum(each["positives"] for each in mine) == 60
        fast, slowed = (
            {name: sum(each[name] for each in mine) for name in mine[0]} for mine in of_ranks
        )  # of the last epoch: the first one makes what all others use again
        # Rank 1 sleeps for most of a step: rank 0 waits for it in the exchange.
        assert fast["exchange_seconds"] > 0.25 * fast["seconds"], case
        assert slowed["exchange_seconds"] < 0.5 * fast["exchange_seconds"], case
