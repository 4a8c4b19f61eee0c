"""The module of lists gives the scores that a predictor adds to dot products."""

import numpy as np
import pytest
import torch

from cadc_rec.data.transition_lists import ListedScores, TransitionLists
from cadc_rec.export.lists import ListScores

ITEMS, LENGTH, DECAY, FACTOR = 40, 5, 0.7, 1.3


@pytest.fixture(scope="module")
def listed():
    """Lists of up to 30 targets, some of them empty."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(0, 31, ITEMS) * (draw.random(ITEMS) > 0.2)
    targets = [np.sort(draw.permutation(ITEMS)[:length]) for length in lengths]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    weights = draw.random(indptr[-1]).astype(np.float32) + np.float32(0.1)
    lists = TransitionLists(indptr, np.concatenate(targets).astype(np.int32), weights)
    return ListedScores(lists, DECAY, FACTOR, LENGTH)


@pytest.fixture(scope="module")
def histories():
    """Empty, short, and longer than what counts."""
    draw = np.random.default_rng(1)
    return [draw.integers(0, ITEMS, length) for length in (0, 1, 3, 5, 8, 2, 0, 5)]


def jagged(rows):
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int32)
    return lengths, torch.from_numpy(np.concatenate(rows).astype(np.int64))


def by_hand(listed, history, item):
    """The formula of docs/recipe.md for one pair."""
    lists, total, weight = listed.lists, 0.0, 0.0
    for place, source in enumerate(history[:LENGTH]):
        weight += DECAY**place
        for entry in range(lists.indptr[source], lists.indptr[source + 1]):
            if lists.items[entry] == item:
                total += DECAY**place * float(lists.weights[entry])
    return FACTOR * total / weight if weight else 0.0


def test_all_items_have_the_bits_of_the_predictors_scores(listed, histories):
    module = torch.jit.script(ListScores(listed))
    found = module.of_all(*jagged(histories)).numpy()
    assert np.array_equal(found, listed.of_lists(histories).toarray())
    expected = [[by_hand(listed, h, item) for item in range(ITEMS)] for h in histories]
    assert np.count_nonzero(expected) > 100
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_so_have_any_candidates_of_each_row(listed, histories):
    draw = np.random.default_rng(2)
    candidates = [draw.permutation(ITEMS)[:n] for n in (3, 0, 7, 40, 1, 0, 2, 5)]
    found = torch.jit.script(ListScores(listed))(*jagged(histories), *jagged(candidates))
    every = listed.of_lists(histories).toarray()
    expected = np.concatenate([row[ids] for row, ids in zip(every, candidates, strict=True)])
    assert np.array_equal(found.numpy(), expected)


def test_an_id_that_is_no_item_has_no_list_and_scores_nothing(listed):
    module = ListScores(listed)
    wild = np.array([10**12, -5, ITEMS])
    plain, broken = np.array([3, 4, 5, 6, 7]), np.array([10**12, 4, -1, 6, ITEMS])
    assert not module(*jagged([plain]), *jagged([wild])).any()
    found = module.of_all(*jagged([broken]))[0].numpy()
    places = {1: 4, 3: 6}
    share = DECAY ** np.arange(LENGTH) / (DECAY ** np.arange(LENGTH)).sum()
    rows = listed.lists.matrix.toarray()
    expected = FACTOR * sum(share[place] * rows[item] for place, item in places.items())
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_without_a_list_all_scores_are_zero(histories):
    nothing = TransitionLists(
        np.zeros(ITEMS + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)
    )
    module = ListScores(ListedScores(nothing, DECAY, FACTOR, LENGTH))
    assert not module.of_all(*jagged(histories)).any()
    assert not module(*jagged(histories), *jagged([[1, 2]] * len(histories))).any()
