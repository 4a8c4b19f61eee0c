"""Candidates that are sorted out on the device are the loader's, but for what fills a step up."""

import numpy as np
import pytest
import torch

from cadc_rec.data.load.candidates import Lifetimes, SoftmaxBatches
from cadc_rec.data.load.loader import Loader
from cadc_rec.data.load.negatives import WeightedNegatives
from cadc_rec.data.load.position import Stretch
from cadc_rec.models.forward import Vectors
from cadc_rec.models.summed_loss import summed_loss
from cadc_rec.training.batches import candidates as candidates_module
from cadc_rec.training.batches import source as source_module
from cadc_rec.training.batches.source import DeviceBatches, HostBatches
from cadc_rec.training.losses import SoftmaxObjective
from tests.training.batches.test_device_batches import (
    CPU,
    ITEMS,
    KNOWN,
    READ_BACK,
    WEIGHTS,
    Operators,
    examples,
)

N = 40
FIRST = np.random.default_rng(1).random(ITEMS)
ARRANGEMENTS = {
    "all": SoftmaxBatches("all", ITEMS, known=KNOWN),
    "in-batch": SoftmaxBatches("in-batch", ITEMS),
    "sampled": SoftmaxBatches("sampled", ITEMS, N),
    "popularity": SoftmaxBatches("sampled", ITEMS, N, draws=WeightedNegatives(WEIGHTS)),
    "few items": SoftmaxBatches("sampled", 30, N),
    "mixed": SoftmaxBatches("mixed", ITEMS, N),
    "unknown": SoftmaxBatches("sampled", ITEMS, N, KNOWN),
    "unknown mixed": SoftmaxBatches("mixed", ITEMS, N, KNOWN),
    "alive": SoftmaxBatches("sampled", ITEMS, N),
    "unknown alive": SoftmaxBatches("sampled", ITEMS, N, KNOWN),
}


def a_loader(name, rank=0, counts=(41,), size=16):
    arrange, rows = ARRANGEMENTS[name], examples(counts[rank], rank)
    rows.items[:] %= arrange.n_items
    if name.endswith("alive"):
        times = FIRST[rows.items] + 0.25
        lives = Lifetimes(FIRST, FIRST + 0.5, times)
        arrange = SoftmaxBatches("sampled", ITEMS, N, arrange.known, lifetimes=lives)
    return Loader(rows, list(counts), rank, size, 2**40 + 7, arrange)


def same(host, made):
    """Every array, up to what fills it up; that is no candidate of any row."""
    rows = len(host.users)
    assert made.real.tolist() == [True] * rows + [False] * (len(made.real) - rows)
    assert (made.positives, made.whole) == (host.positives, host.whole)
    for name in ("users", "items", "rows", "labels", "negatives", "repeated") if rows else ():
        expected, found = getattr(host, name), getattr(made, name)
        assert (expected is None) == (found is None), name
        if expected is not None:
            assert found.numpy().dtype == expected.dtype
            assert found[: len(expected)].tolist() == expected.tolist(), name
    of_host, of_made = (b.items if b.negatives is None else b.negatives for b in (host, made))
    left_out = np.zeros((rows, len(of_made)), bool)
    if host.masked is not None:
        left_out[tuple(host.masked)] = True
    left_out[:, len(of_host) :] = True
    found = np.zeros_like(left_out) if made.outside is None else made.outside.numpy()
    assert (
        rows == 0
        or (np.broadcast_to(found, (len(made.users), len(of_made)))[:rows] == left_out).all()
    )


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_every_step_is_the_loaders(name, monkeypatch):
    monkeypatch.setattr(
        source_module, "ROWS_AT_ONCE", 40
    )  # several steps at once, and several times
    monkeypatch.setattr(candidates_module, "_ENTRIES", 64)
    for rank, counts in ((0, (41,)), (0, (41, 0, 37)), (1, (41, 0, 37)), (2, (41, 0, 37))):
        loader = a_loader(name, rank, counts)
        batches = DeviceBatches(loader, CPU)
        for epoch, done in ((1, ()), (2, (Stretch(len(counts), 0, 1),))):
            made = list(batches.epoch(epoch, done))
            for host, step in zip(loader.epoch(epoch, done), made, strict=True):
                same(host, step)
            columns = (
                {k: v.shape for k, v in vars(b).items() if hasattr(v, "shape")} for b in made
            )
            assert len({str(each) for each in columns}) <= 1


@pytest.mark.parametrize("name", ["all", "mixed", "unknown alive"])
def test_their_losses_and_gradients_are_those_of_the_loaders_steps(name, monkeypatch):
    torch.manual_seed(0)
    users, items = torch.randn(41, 4, requires_grad=True), torch.randn(ITEMS, 4, requires_grad=True)
    found = []
    for source in (HostBatches, DeviceBatches):
        for at_once in (1 << 27, 200):
            monkeypatch.setattr("cadc_rec.models.summed_loss.AT_ONCE", at_once)
            total = torch.zeros(())
            for batch in source(a_loader(name), CPU).epoch(1):
                vectors = Vectors(users[batch.rows]), Vectors(items[batch.items])
                total = total + summed_loss(SoftmaxObjective(0.7).loss, *vectors, None, batch)
            found.append((total, *torch.autograd.grad(total, (users, items))))
    for again in found[1:]:
        for expected, value in zip(found[0], again, strict=True):
            torch.testing.assert_close(value, expected)


@pytest.mark.parametrize(("name", "most"), [("in-batch", 32), ("unknown alive", 65)])
def test_a_step_takes_few_launches_and_reads_nothing_back(name, most):
    steps = DeviceBatches(a_loader(name), CPU).epoch(1)
    next(steps)
    with Operators() as counted:
        next(steps)
    assert counted.called.total() <= most, counted.called
    assert not READ_BACK & {*counted.called}


def test_a_row_that_fills_up_gives_a_finite_loss_where_nothing_was_alive():
    """Its own score is a term of its own then, so that the sum is of something."""
    few, draws = 12, 3
    first = np.arange(few, dtype=float)
    for seed in range(6):
        rows = examples(41, seed)
        rows.items[:] %= few
        lives = Lifetimes(first, first + 0.5, first[rows.items] + 0.25)  # alive one at a time
        arrange = SoftmaxBatches("sampled", few, draws, lifetimes=lives)
        source = DeviceBatches(Loader(rows, [41], 0, 16, seed, arrange), CPU)
        for batch in source.epoch(1):
            assert not batch.repeated[~batch.real].any()
            vectors = [
                torch.randn(len(ids), 4, requires_grad=True) for ids in (batch.users, batch.items)
            ]
            sides = [Vectors(each) for each in vectors]
            loss = summed_loss(SoftmaxObjective(1.0).loss, *sides, None, batch)
            loss.backward()
            assert loss.isfinite()
            assert all(each.grad.isfinite().all() for each in vectors)


def test_a_matrix_of_what_users_know_may_be_too_large_for_the_device(monkeypatch):
    loader, elsewhere = a_loader("unknown"), torch.device("meta")  # no CPU
    assert isinstance(source_module.source_on(elsewhere, loader), DeviceBatches)
    for limit in ("_MOST_MARKS", "_MOST_LOOKS"):
        with monkeypatch.context() as patched:
            patched.setattr(source_module, limit, 10)
            assert isinstance(source_module.source_on(elsewhere, loader), HostBatches)
