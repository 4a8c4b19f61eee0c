"""What comes on top of dot products, kept from one ranking to the next: the same to the bit."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from cadc_rec.evaluation.on_top import KeptScores
from tests.evaluation.two_ranks import ASKED, HISTORY, added_scores, on_top

DATASET = SimpleNamespace(test_timestamp=ASKED, val_timestamp=ASKED)
BLOCKS = np.split(np.argsort(ASKED, kind="stable"), [15, 30])


@pytest.fixture
def formed():
    """Which users' histories were asked for, in turn."""
    return []


@pytest.fixture
def scores(formed):
    """scores(kept, lists, recent): what is added for all users, by these factors; dense."""

    def known(_, users):
        formed.append(list(users))
        return HISTORY[users]

    def form(kept, of_lists=2.0, of_recent=0.7):
        plain = on_top()
        changed = replace(
            plain,
            lists=replace(plain.lists, factor=of_lists),
            recent=replace(plain.recent, factor=of_recent),
            known=known,
            kept=kept,
        )
        listed, order = changed.of_users(DATASET, None, False, range(301))
        assert order.tolist() == np.concatenate(BLOCKS).tolist()
        found = np.zeros((41, 301), np.float32)
        for block in BLOCKS:
            found[block] = listed(block).toarray()
        return found

    return form


def test_they_are_formed_once_and_take_the_factors_of_each_time(scores, formed):
    kept = KeptScores()
    assert np.allclose(scores(kept), added_scores(), rtol=1e-6, atol=1e-6)
    for factors in ((2.0, 0.7), (0.3, 1.9)):
        fresh = scores(None, *factors)
        del formed[:]
        assert scores(kept, *factors).tobytes() == fresh.tobytes()
        assert formed == []


def test_beyond_the_memory_allowed_they_are_formed_each_time(scores, formed):
    every = KeptScores()
    expected = scores(every)
    bytes_of = sum(
        part.data.nbytes + part.indices.nbytes + part.indptr.nbytes for part in every._kept.values()
    )
    del formed[:]
    some = KeptScores(bytes_of // 2)
    for _ in range(2):
        assert scores(some).tobytes() == expected.tobytes()
    again = [list(block) for block in BLOCKS if ("lists", block.tobytes()) not in some._kept]
    assert 0 < len(again) < len(BLOCKS)
    assert formed == [*map(list, BLOCKS), *again]
