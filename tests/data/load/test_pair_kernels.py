"""The compiled loops give NumPy's layout, to the bit."""

import numpy as np
import pytest

from cadc_rec.data.load.batches import Step
from cadc_rec.data.load.pair_batches import PairBatches, arrange_pairs
from cadc_rec.data.load.pair_kernels import arrange_pairs_compiled
from cadc_rec.data.load.shards import Examples


def same(first, second):
    for name in ("users", "items"):
        a, b = getattr(first, name), getattr(second, name)
        assert a.dtype == b.dtype
        assert a.tolist() == b.tolist()
    for name, a in vars(first.pattern).items():
        b = getattr(second.pattern, name)
        assert a.dtype == b.dtype
        assert a.tolist() == b.tolist()
    assert (first.positives, first.whole) == (second.positives, second.whole)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    ("rows", "k", "users", "items"),
    [(0, 3, 5, 7), (1, 1, 1, 1), (300, 4, 40, 90), (300, 0, 5000, 10**6), (50, 2, 2**31 - 1, 9999)],
)
def test_every_layout_is_numpys(rows, k, users, items, whole):
    rng = np.random.default_rng(rows + k)
    who = rng.integers(0, users, rows).astype(np.int32)
    what, drawn = (rng.integers(0, items, n).astype(np.int32) for n in (rows, (rows, k)))
    everything = np.arange(items) if whole else None
    arguments = (who, what, drawn, items, rows, everything)
    same(arrange_pairs(*arguments), arrange_pairs_compiled(*arguments))


def test_ids_up_to_the_largest_are_sorted():
    top = 2**31 - 1
    ids = np.array([top - 1, 0, top - 1, 2**22, 2**11], np.int32)
    arguments = (ids, ids, ids[:, None], top, 5)
    same(arrange_pairs(*arguments), arrange_pairs_compiled(*arguments))


@pytest.mark.parametrize("by_example", [False, True])
def test_batches_are_the_same_compiled_or_not(by_example):
    rng = np.random.default_rng(0)
    examples = Examples(rng.integers(0, 9, 64), rng.integers(0, 30, 64))
    step = Step(1, 1, 0, 0, 0, np.arange(64), 64)
    first, second = (
        PairBatches(3, 30, by_example, compiled=compiled)(step, examples)
        for compiled in (False, True)
    )
    same(first, second)
    assert (first.rows is None) == (second.rows is None) == (not by_example)
