"""How many pairs of items are planned for, against drawing them."""

import numpy as np
import pytest

from cadc_rec.config.vectors import TransitionsConfig
from cadc_rec.planning import transitions
from cadc_rec.planning.sizes import Sizes
from cadc_rec.planning.transitions import expected_pairs, levels, transition_bytes


def test_as_many_different_pairs_are_expected_as_draws_by_popularity_give():
    rng = np.random.default_rng(0)
    items = (300 * rng.random(40_000) ** 2).astype(int)
    counts = np.bincount(items, minlength=310)  # of ten nothing is known
    for window, own in ((1, slice(0, 310)), (2, slice(0, 30)), (1, slice(300, 310))):
        rows = items[(items >= own.start) & (items < own.stop)]
        drawn = rng.choice(items, (len(rows), window))
        pairs = np.unique(rows[:, None] * 310 + drawn)
        expected = expected_pairs(counts[own], levels(counts), window)
        assert abs(expected - len(pairs)) <= 0.02 * len(pairs)
    assert expected_pairs(counts * 0, levels(counts * 0), 1) == 0


@pytest.mark.parametrize(("known", "passes"), [(True, 2), (False, 1 + 1 / 256)])
def test_a_plan_for_many_ranks_goes_over_the_items_twice_at_most(known, passes, monkeypatch):
    items, seen = 256 * 50, []

    def counted(interactions):
        seen.append(len(interactions))
        return levels(interactions)

    monkeypatch.setattr(transitions, "levels", counted)
    of_items = np.full(items, 20) if known else None
    sizes = Sizes(1000, items, "the test", interactions=20 * items, of_items=of_items)
    found = transition_bytes(TransitionsConfig(form="lists", window=1), sizes, 256)
    assert sum(seen) == passes * items
    # 4 bytes for each of a rank's 1,000 rows; a pair of 8 bytes and an eighth for nearly each.
    assert found == pytest.approx(1000 * (4 + 9), rel=0.01)
