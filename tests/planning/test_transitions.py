"""How many pairs of items are planned for, against drawing them."""

import numpy as np

from cadc_rec.planning.transitions import expected_pairs


def test_as_many_different_pairs_are_expected_as_draws_by_popularity_give():
    rng = np.random.default_rng(0)
    items = (300 * rng.random(40_000) ** 2).astype(int)
    counts = np.bincount(items, minlength=310)  # of ten nothing is known
    for window, own in ((1, slice(0, 310)), (2, slice(0, 30)), (1, slice(300, 310))):
        rows = items[(items >= own.start) & (items < own.stop)]
        drawn = rng.choice(items, (len(rows), window))
        pairs = np.unique(rows[:, None] * 310 + drawn)
        expected = expected_pairs(counts[own], counts, window)
        assert abs(expected - len(pairs)) <= 0.02 * len(pairs)
    assert expected_pairs(counts * 0, counts * 0, 1) == 0
