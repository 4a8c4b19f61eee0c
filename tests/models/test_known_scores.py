"""Known scores at a step's candidates are those of the lists, and of the log, themselves."""

import numpy as np
import pytest
import torch
from scipy import sparse

from cadc_rec.data.recent_popularity import RecentPopularity
from cadc_rec.data.transition_lists import best_targets
from cadc_rec.models import known_on_device
from cadc_rec.models.known_on_device import ListedOnDevice, RecentOnDevice, on_device
from cadc_rec.models.known_scores import ListedExamples, RecentExamples

ITEMS, LENGTH, DECAY = 30, 6, 0.6


@pytest.fixture(scope="module")
def given():
    """A matrix of transitions, its lists, and histories of which some have ended."""
    rng = np.random.default_rng(2)
    whole = rng.random((ITEMS, ITEMS)) * (rng.random((ITEMS, ITEMS)) < 0.4)
    history = rng.integers(0, ITEMS, (12, LENGTH)).astype(np.int32)
    for row, kept in enumerate(rng.integers(0, LENGTH + 1, 12)):
        history[row, kept:] = -1
    history[0] = -1
    return whole, best_targets(sparse.csr_array(whole.astype(np.float32)), ITEMS), history


def test_they_are_the_weighted_means_of_the_lists(given):
    whole, lists, history = given
    rows, items = np.array([3, 0, 7, 3, 11]), np.array([29, 4, 0, 17])
    found = ListedExamples(lists, DECAY, history).of(
        torch.from_numpy(rows), torch.from_numpy(items)
    )
    for at, row in enumerate(rows):
        known = [item for item in history[row] if item >= 0]
        weights = [DECAY**place for place in range(len(known))]
        expected = sum(
            (w * whole[item][items] for w, item in zip(weights, known, strict=True)),
            np.zeros(len(items)),
        ) / max(sum(weights), 1e-9)
        np.testing.assert_allclose(found[at].numpy(), expected, rtol=1e-5, atol=1e-7)


def test_a_step_leaves_nothing_to_the_next(given):
    _, lists, history = given
    listed, every = ListedExamples(lists, DECAY, history), torch.arange(ITEMS)
    rows = torch.arange(12)
    listed.of(rows, torch.tensor([5, 2]))
    np.testing.assert_allclose(
        listed.of(rows, every), lists.scores(history, DECAY).toarray(), rtol=1e-5, atol=1e-7
    )


def test_short_lists_of_a_long_catalogue_leave_nothing_to_the_next_row():
    rng = np.random.default_rng(4)
    whole = sparse.random_array((900, 900), density=0.004, rng=rng, dtype=np.float32).tocsr()
    lists = best_targets(whole, 900)
    history = rng.integers(0, 900, (20, LENGTH)).astype(np.int32)
    found = ListedExamples(lists, DECAY, history).of(torch.arange(20), torch.arange(900))
    weight = DECAY ** np.arange(LENGTH)
    expected = [(weight / weight.sum()) @ whole[row].toarray() for row in history]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_at_shared_negatives_and_at_each_rows_own_item_they_are_the_same(given):
    _, lists, history = given
    log = RecentPopularity(np.arange(90.0), np.arange(90, dtype=np.int32) * 7 % ITEMS, ITEMS)
    rows, items = torch.tensor([3, 0, 7, 3]), torch.tensor([29, 4, 0, 17])
    negatives, own = torch.tensor([2, 0]), torch.tensor([1, 3, 0, 0])
    times = np.linspace(80, 5, 12)
    for known in (ListedExamples(lists, DECAY, history), RecentExamples(log, 30.0, times)):
        everywhere = known.of(rows, items)
        assert everywhere.any()
        found = known.with_own(rows, items, negatives, own)
        assert torch.equal(found.candidates, everywhere[:, negatives])
        assert torch.equal(found.own, everywhere[torch.arange(4), own])


def test_places_that_hardly_count_are_left_out(given):
    _, lists, history = given
    assert len(ListedExamples(lists, 0.01, history).weights) == 3  # 1, 0.01 and 0.0001


def test_what_was_taken_just_before_is_counted_one_interaction_after_the_other():
    rng = np.random.default_rng(6)
    time, item = rng.integers(0, 60, 400), rng.integers(0, ITEMS, 400).astype(np.int32)
    asked = rng.integers(-5, 70, 40).astype(np.float64)
    recent = RecentExamples(RecentPopularity(time, item, ITEMS), 7.0, asked)
    for rows, items in (
        ([3, 0, 39, 3, 12, 25], [29, 4, 0, 17]),
        ([8], list(range(ITEMS))),
        ([], [2]),
        (list(range(40)), list(range(ITEMS))),  # those that come after the log too, in any order
    ):
        found = recent.of(torch.tensor(rows, dtype=torch.int64), torch.tensor(items))
        counted = [
            [sum(asked[row] - 7 <= t < asked[row] for t in time[item == i]) for i in items]
            for row in rows
        ]
        expected = np.log1p(np.array(counted, np.float64).reshape(len(rows), len(items)))
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("entries", [1, 100, 2**24])
def test_a_device_forms_the_same_scores(given, entries, monkeypatch):
    """Its code, run on the CPU."""
    monkeypatch.setattr(known_on_device, "_ENTRIES", entries)
    cpu = torch.device("cpu")
    _, lists, history = given
    rng = np.random.default_rng(7)
    time, item = rng.integers(0, 60, 400), rng.integers(0, ITEMS, 400).astype(np.int32)
    asked = rng.integers(-5, 70, 12).astype(np.float64)
    listed = ListedExamples(lists, DECAY, history)
    recent = RecentExamples(RecentPopularity(time, item, ITEMS), 7.0, asked)
    meta = torch.device("meta")  # stands for a GPU: whether what it takes there fits
    for examples, form, most in (
        (listed, ListedOnDevice, 8 * (ITEMS + 1) + 8 * len(lists.items) + history.nbytes),
        (recent, RecentOnDevice, 8 * 400 + 2 * 8 * 12),
    ):
        assert on_device(examples, cpu, most) is examples
        assert on_device(examples, meta, most - 1) is examples
        assert isinstance(on_device(examples, meta, most), form)
    for rows, items in (([3, 0, 7, 3, 11], [29, 4, 0, 17]), (range(12), range(ITEMS)), ([], [2])):
        asking = torch.tensor(list(rows), dtype=torch.int64), torch.tensor(list(items))
        for form, examples in ((ListedOnDevice, listed), (RecentOnDevice, recent)):
            found, expected = form(examples, cpu).of(*asking), examples.of(*asking)
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
            filled = torch.cat([asking[1], asking[1][-1:].expand(3)])  # to a fixed length
            again = form(examples, cpu).of(asking[0], filled)[:, : len(items)]
            assert torch.equal(again, found)
    rows, items = torch.arange(12), torch.arange(ITEMS).flip(0)
    negatives, own = torch.tensor([0, 2, 2, 9]), 2 * torch.arange(12)
    for form, examples in ((ListedOnDevice, listed), (RecentOnDevice, recent)):
        asking = rows, items, negatives, own
        found, expected = form(examples, cpu).with_own(*asking), examples.with_own(*asking)
        torch.testing.assert_close(found.candidates, expected.candidates, rtol=1e-6, atol=0)
        torch.testing.assert_close(found.own, expected.own, rtol=1e-6, atol=0)
        assert expected.own.any()


def test_lists_without_any_target_add_nothing():
    empty = best_targets(sparse.csr_array((3, 3), dtype=np.float32), 5)
    listed = ListedExamples(empty, DECAY, np.zeros((2, 2), np.int32))
    asking = torch.arange(2), torch.arange(3)
    assert not ListedOnDevice(listed, torch.device("cpu")).of(*asking).any()
