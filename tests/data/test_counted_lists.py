"""Lists come out once more from what users took, on any machine, as they were counted."""

import numpy as np
import pytest

from cadc_rec.config.experiment import TransitionsConfig
from cadc_rec.data import content, transition_matrix
from cadc_rec.data.counted_lists import Counting, Taken
from cadc_rec.data.dataset import Attribute
from cadc_rec.data.settled import Settled
from cadc_rec.data.user_items import UserItems

N_ITEMS, TARGETS = 40, 12
HOW = TransitionsConfig(
    window=3, decay=0.5, normalization=0.3, form="lists", targets=TARGETS
)  # fmt: skip


def world():
    """What 60 users took, how much of it is held out, and a brand of each item."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 20, 60)
    items = np.concatenate([draw.permutation(N_ITEMS)[:n] for n in lengths]).astype(np.int32)
    known = UserItems(np.concatenate([[0], np.cumsum(lengths)]), items)
    held = np.where(lengths > 2, 2, 0).astype(np.uint8)
    brands = draw.integers(0, 6, N_ITEMS).astype(np.int32)
    of_brand = Attribute("brand", "categorical", 6, np.arange(N_ITEMS + 1), brands)
    return known, held, of_brand


def by_hand(known, held, brands, content_weight):
    """The dense matrix that the lists are cut from: transitions, then the best, then content."""
    counts = np.zeros((N_ITEMS, N_ITEMS))
    for user, left_out in enumerate(held):
        row = known.items[known.indptr[user] : known.indptr[user + 1] - int(left_out)]
        for place, source in enumerate(row):
            for distance, target in enumerate(row[place + 1 : place + 4]):
                counts[source, target] += 0.5**distance
    occurs = counts > 0
    scaled = counts.copy()
    scaled[occurs] /= np.outer(counts.sum(1), counts.sum(0))[occurs] ** 0.3
    scaled[occurs] = np.log1p(scaled[occurs] / scaled[occurs].mean())
    for row in scaled:
        row[np.argsort(-row, kind="stable")[TARGETS:]] = 0
    alike = (brands[:, None] == brands) & (brands > 0)  # one value: cosine 1, or nothing in common
    np.fill_diagonal(alike, False)
    return scaled + content_weight * alike


@pytest.mark.parametrize("weight", [0.0, 0.35])
def test_lists_are_those_of_what_was_learned_and_of_content(weight):
    known, held, brand = world()
    counting = Counting.of_json(Counting(HOW, weight).to_json())
    lists = counting.lists(Taken.of(known, held, N_ITEMS), [brand], Settled())
    expected = by_hand(known, held, brand.values, weight)
    np.testing.assert_allclose(lists.matrix.toarray(), expected, rtol=1e-6)


def test_content_alone_and_nothing_at_all():
    known, held, brand = world()
    taken = Taken.of(known, held, N_ITEMS)
    lists = Counting(None, 0.7).lists(taken, [brand], Settled())
    assert set(np.unique(lists.matrix.toarray())) == {0.0, 1.0}
    assert Counting(None, 0.7).lists(taken, [], Settled()) is None


def test_another_machine_counts_the_same_bits(monkeypatch):
    """Its powers and logarithms are other ones in the last bits."""
    known, held, brand = world()
    taken, counting, here = Taken.of(known, held, N_ITEMS), Counting(HOW, 0.35), Settled()
    lists = counting.lists(taken, [brand], here)

    class Another:
        def __getattr__(self, name):
            return getattr(np, name)

        @staticmethod
        def log1p(x):
            return np.log1p(x) * (1 + 2e-16)

        @staticmethod
        def log(x):
            return np.log(x) * (1 - 2e-16)

    for module in (content, transition_matrix):
        monkeypatch.setattr(module, "np", Another())
    again = counting.lists(taken, [brand], Settled.of_code(here.code()))
    assert again.contents() == lists.contents()


def test_more_held_out_than_taken_is_refused():
    known, held, _ = world()
    held[0] = 200
    with pytest.raises(ValueError, match="more items are held out"):
        Taken.of(known, held, N_ITEMS)
