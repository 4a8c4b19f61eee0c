"""A step made on the device is the loader's, but for what fills it up to a fixed shape."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cadc_rec.data.load.candidates import SoftmaxBatches
from cadc_rec.data.load.loader import Loader
from cadc_rec.data.load.negatives import WeightedNegatives
from cadc_rec.data.load.pair_batches import PairBatches
from cadc_rec.data.load.position import Stretch
from cadc_rec.data.load.shards import Examples, SelectionShards
from cadc_rec.data.load.stream_loader import StreamLoader
from cadc_rec.data.user_items import UserItems
from cadc_rec.errors import CadcError
from cadc_rec.training.batches import source as source_module
from cadc_rec.training.batches.source import DeviceBatches, HostBatches, source_on
from cadc_rec.training.build import build_model
from cadc_rec.training.kept import Histories
from cadc_rec.training.losses import make_objective
from cadc_rec.training.tables import dense_optimizer
from cadc_rec.training.trainer import Trainer
from tests.distributed import toy

CPU = torch.device("cpu")
USERS, ITEMS, K = 25, 300, 3
RNG = np.random.default_rng(0)
KNOWN = UserItems.of_lists(
    [RNG.choice(ITEMS, RNG.integers(0, 20), replace=False).astype(np.int32) for _ in range(USERS)]
)
WEIGHTS = RNG.integers(0, 50, ITEMS)
ARRANGEMENTS = {
    "uniform": PairBatches(K, ITEMS),
    "many items": PairBatches(K, 2**20 + 9),
    "all items": PairBatches(K, ITEMS, positives=ITEMS),
    "by example": PairBatches(K, ITEMS, by_example=True),
    "popularity": PairBatches(K, ITEMS, draws=WeightedNegatives(WEIGHTS)),
    "unknown": PairBatches(K, ITEMS, draws=WeightedNegatives(WEIGHTS + 1, KNOWN)),
}


def examples(rows, seed=0):
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, USERS, rows), rng.integers(0, ITEMS, rows)
    return Examples(users.astype(np.int32), items.astype(np.int32))


def same(host, made):
    """Every array, up to what fills it up; that belongs to the last user and the last item."""
    pattern, filled = host.pattern, made.pattern
    rows, pairs = len(pattern.col) // (K + 1), len(pattern.col)
    assert made.real.tolist() == [True] * rows + [False] * (len(made.real) - rows)
    assert (made.positives, made.whole) == (host.positives, host.whole)
    for name in ("users", "items", "rows"):
        expected, found = getattr(host, name), getattr(made, name)
        assert (expected is None) == (found is None)
        if expected is not None:
            assert found.numpy().dtype == expected.dtype
            assert found[: len(expected)].tolist() == expected.tolist()
    if host.rows is None and rows:
        assert set(made.users.tolist()) == set(host.users.tolist())  # no row that it does not use
        assert set(made.items.tolist()) == set(host.items.tolist())
    for name in ("crow", "item_crow"):
        expected, found = getattr(pattern, name), getattr(filled, name).numpy()
        assert found.dtype == expected.dtype
        assert found[-1] == len(filled.col)
        assert np.minimum(found, pairs)[: len(expected)].tolist() == expected.tolist()
        assert (found[len(expected) :] >= pairs).all()
    assert filled.col[:pairs].tolist() == pattern.col.tolist()
    mine = filled.to_item_order.numpy() < pairs
    for name in ("to_item_order", "item_col", "col"):
        assert getattr(filled, name).numpy().dtype == getattr(pattern, name).dtype
    assert filled.to_item_order.numpy()[mine].tolist() == pattern.to_item_order.tolist()
    assert filled.item_col.numpy()[mine].tolist() == pattern.item_col.tolist()


def shapes(batch):
    columns = batch.users, batch.items, batch.real, *vars(batch.pattern).values()
    return tuple(len(column) for column in columns)


@pytest.mark.parametrize(
    "counts", [[41, 0, 37], *(pytest.param(c, marks=pytest.mark.slow) for c in ([103], [50, 53]))]
)
@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_every_step_of_every_rank_is_the_loaders(name, counts, monkeypatch):
    monkeypatch.setattr(
        source_module, "ROWS_AT_ONCE", 40
    )  # several steps at once, and several times
    ranks = len(counts)
    half_way = (Stretch(ranks, 0, 1),), (Stretch(2 if ranks == 1 else 1, 0, 1),)
    for rank, rows in enumerate(counts):
        loader = Loader(examples(rows, rank), counts, rank, 16, 2**40 + 7, ARRANGEMENTS[name])
        batches = DeviceBatches(loader, CPU)
        for epoch, done in ((1, ()), (2, half_way[0]), (3, half_way[1])):
            made = list(batches.epoch(epoch, done))
            for host, step in zip(loader.epoch(epoch, done), made, strict=True):
                same(host, step)
            assert len(set(map(shapes, made))) <= 1


def test_the_order_of_no_epoch_after_the_last_is_drawn(monkeypatch):
    loader = Loader(examples(9), [9], 0, 4, 0, ARRANGEMENTS["uniform"])
    drawn, course = [], loader.course
    monkeypatch.setattr(
        loader, "course", lambda epoch, done=(): drawn.append(epoch) or course(epoch, done)
    )
    batches = DeviceBatches(loader, CPU, epochs=3)
    for epoch in (1, 2, 3):
        list(batches.epoch(epoch))
    batches._thread.shutdown(wait=True)
    assert drawn == [1, 2, 3]


def test_a_streamed_epoch_is_the_loaders(tmp_path, monkeypatch):
    monkeypatch.setattr(source_module, "ROWS_AT_ONCE", 40)
    for number in range(3):
        rows = examples(70, number)
        table = pa.table({"user": rows.users, "item": rows.items})
        pq.write_table(table, tmp_path / f"shard-{number:05d}-of-00003.parquet", 16)
    shards = SelectionShards.open(SimpleNamespace(path=tmp_path))
    loader = StreamLoader(shards, 1, 2, 16, 5, ARRANGEMENTS["unknown"], buffer_rows=60)
    batches = DeviceBatches(loader, CPU)
    for done in ((), (Stretch(3, 0, 2),)):
        for host, step in zip(loader.epoch(2, done), batches.epoch(2, done), strict=True):
            same(host, step)


class Operators(TorchDispatchMode):
    """Counts what would be launched: neither views nor mere memory."""

    def __init__(self):
        super().__init__()
        self.called = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, function.overloadpacket.__name__
        if name == "_to_copy" and kwargs.get("device") is not None:
            name = "from device to device"
        if not (function.is_view or name.startswith("empty")):
            self.called[name] += 1
        return function(*args, **kwargs)


READ_BACK = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive"}
COPIES = {"from device to device", "copy_", "_pin_memory"}


@pytest.mark.parametrize(("name", "most"), [("all items", 25), ("uniform", 40), ("by example", 30)])
def test_a_step_takes_few_launches_and_never_waits_for_the_device(name, most):
    loader = Loader(examples(96), [96], 0, 16, 0, ARRANGEMENTS[name])
    steps = DeviceBatches(loader, CPU).epoch(1)
    with Operators() as first:
        next(steps)  # draws for all steps
    with Operators() as later:
        next(steps)
    assert later.called.total() <= most, later.called
    assert first.called.total() <= 350 + most
    assert not (READ_BACK | COPIES) & {*later.called}
    assert not READ_BACK & {*first.called}


@pytest.mark.parametrize(
    "ids", ["init_frozen", pytest.param("trainable", marks=pytest.mark.slow), "history"]
)
def test_a_training_on_device_batches_learns_what_one_on_the_loaders_learns(ids, alone):
    found = []
    for source in (HostBatches, DeviceBatches):
        experiment = toy.experiment(ids, "data_parallel")
        changes = {"epochs": 4, "average_epochs": 0.0, "loss": "binary"}
        config = experiment.train.model_copy(update=changes)
        rng = np.random.default_rng(4)
        rows = Examples(rng.integers(0, toy.USERS, 110), rng.integers(0, toy.ITEMS, 110))
        model = build_model(experiment, toy.dataset(), toy.pretrained(ids), alone)
        model.module.user.dropout.dropped_levels = model.module.item.dropout.dropped_levels = 0
        histories = None
        if ids == "history":
            histories = Histories(model.module, toy.histories(110), [110], alone, 1 << 30)
        arrange = PairBatches(config.negatives, toy.ITEMS, by_example=histories is not None)
        trainer = Trainer(
            model.wrapped,
            dense_optimizer(model.wrapped, model.module, config),
            Loader(rows, [110], 0, 20, 0, arrange),
            config,
            alone,
            model.trains,
            make_objective(config),
            histories,
        )
        trainer.batches = source(trainer.batches.loader, CPU)
        losses = [entry["loss"] for entry in trainer.fit(None).history]
        found.append((losses, model.item_vectors()))
    (expected, vectors), (losses, again) = found
    assert losses == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(again, vectors, rtol=1e-3, atol=1e-5)


def test_where_batches_are_made(monkeypatch, caplog):
    """A device's name stands in for a GPU: nothing is computed."""
    caplog.set_level("INFO", "cadc_rec")
    gpu, made = torch.device("cuda"), []
    pairs = Loader(examples(9), [9], 0, 4, 0, ARRANGEMENTS["uniform"])
    softmax = Loader(examples(9), [9], 0, 4, 0, SoftmaxBatches("all", ITEMS))
    monkeypatch.setattr(source_module, "DeviceBatches", lambda *given: made.append(given[:2]))
    assert isinstance(source_on(CPU, pairs), HostBatches)
    source_on(gpu, pairs)
    source_on(gpu, softmax)
    assert made == [(pairs, gpu), (softmax, gpu)]
    assert isinstance(source_on(gpu, pairs, on_host=True), HostBatches)
    assert "batches are made on the host: their known scores" in caplog.text

    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(source_module, "DeviceBatches", full)
    with pytest.raises(CadcError, match=r"set loader\.kind = 'stream'"):
        source_on(gpu, pairs)
