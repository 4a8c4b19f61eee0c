"""What comes on top of dot products, kept from one ranking to the next: the same to the bit."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse

from cadc_rec.data.recent_popularity import RecentScores
from cadc_rec.evaluation.on_top import KeptScores
from tests.evaluation.two_ranks import ASKED, HISTORY, added_scores, on_top

DATASET = SimpleNamespace(test_timestamp=ASKED, val_timestamp=ASKED)
BLOCKS = np.split(np.argsort(ASKED, kind="stable"), [15, 30])


@pytest.fixture
def formed():
    """Which users' scores of lists and of recent popularity were formed, in turn."""
    return {"lists": [], "recent": []}


@pytest.fixture(params=["both", "lists"])
def scores(formed, monkeypatch, request):
    """scores(kept, lists, recent): what is added for all users, by these factors; dense."""
    with_recent = request.param == "both"
    of = RecentScores.of

    def counted(self, at):
        formed["recent"].append(list(np.flatnonzero(np.isin(ASKED, at))))
        return of(self, at)

    monkeypatch.setattr(RecentScores, "of", counted)

    def known(_, users):
        formed["lists"].append(list(users))
        return HISTORY[users]

    def form(kept, of_lists=2.0, of_recent=0.7):
        plain = on_top()
        changed = replace(
            plain,
            lists=replace(plain.lists, factor=of_lists),
            recent=replace(plain.recent, factor=of_recent) if with_recent else None,
            known=known,
            kept=kept,
        )
        listed, order = changed.of_users(DATASET, None, False, range(301))
        if with_recent:
            assert order.tolist() == np.concatenate(BLOCKS).tolist()
        found = np.zeros((41, 301), np.float32)
        for block in BLOCKS:
            found[block] = listed(block).toarray()
        return found

    return form


def test_they_are_formed_once_and_take_the_factors_of_each_time(scores, formed):
    kept = KeptScores(2**28)
    scores(kept)
    for factors in ((2.0, 0.7), (0.3, 1.9)):
        fresh = scores(None, *factors)
        for each in formed.values():
            each.clear()
        assert scores(kept, *factors).tobytes() == fresh.tobytes()
        assert formed == {"lists": [], "recent": []}


@pytest.mark.parametrize("scores", ["both"], indirect=True)
def test_they_are_those_of_plain_loops(scores):
    assert np.allclose(scores(KeptScores(2**28)), added_scores(), rtol=1e-6, atol=1e-6)


def test_beyond_the_memory_allowed_they_are_formed_each_time(scores, formed):
    every = KeptScores(2**28)
    expected = scores(every)
    sizes = [p.data.nbytes + p.indices.nbytes + p.indptr.nbytes for p in every._kept.values()]
    formed["lists"].clear()
    some = KeptScores(sum(sizes) // 2)
    for _ in range(2):
        assert scores(some).tobytes() == expected.tobytes()
    again = [list(block) for block in BLOCKS if ("lists", block.tobytes()) not in some._kept]
    assert 0 < len(again) < len(BLOCKS)
    assert formed["lists"] == [*map(list, BLOCKS), *again]


def test_what_is_kept_cannot_be_changed_by_who_gets_it():
    """SciPy sorts the entries of a matrix in place for some of its operations."""
    kept, users = KeptScores(2**28), np.arange(1)
    made = sparse.csr_array((np.float32([1, 2]), np.int32([3, 1]), [0, 2]), shape=(1, 4))
    with pytest.raises(ValueError, match="read-only"):
        kept.of("lists", users, 1.0, lambda: made).sum_duplicates()
    assert kept.of("lists", users, 2.0, lambda: made).toarray().tolist() == [[0, 4, 0, 2]]
