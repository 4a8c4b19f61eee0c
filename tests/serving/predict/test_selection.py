"""The compiled selection keeps what a sort keeps."""

import numpy as np
import pytest

from cadc_rec.serving.predict.selection import best_few

N = 30  # rows


@pytest.mark.parametrize(
    ("columns", "keep"), [(1, 1), (40, 16), (16, 16), (500, 128), (1025, 16), (3000, 10)]
)
@pytest.mark.parametrize("levels", [3, 10**6])
def test_the_best_few_are_those_of_a_sort(columns, keep, levels):
    draw = np.random.default_rng(columns + keep)
    scores = draw.integers(-levels, levels, (N, columns)).astype(np.float32)
    struck = [draw.permutation(columns)[: draw.integers(0, columns + 1)] for _ in range(N)]
    indptr = np.concatenate([[0], np.cumsum([len(one) for one in struck])])
    expected = scores.copy()
    for row, one in zip(expected, struck, strict=True):
        row[one] = -np.inf
    rows = np.concatenate(struck).astype(np.int32)
    rows.flags.writeable = False  # as the arrays of a bundle
    got, kept = best_few(scores, indptr, rows, keep)
    for n in range(N):
        order = np.argsort(-expected[n], kind="stable")[:keep]
        order = np.sort(order[expected[n, order] > -np.inf])
        there = kept[n] > -np.inf
        assert got[n, there].tolist() == order.tolist()
        assert kept[n, there].tolist() == expected[n, order].tolist()
        assert (got[n, ~there] == 0).all()
