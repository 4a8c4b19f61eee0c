"""Which item followed which, against counting by hand."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from cadc_rec.config import TransitionsConfig
from cadc_rec.data.transitions import load_matrix, save_matrix, transition_matrix


def a_dataset(sequences, n_items):
    lengths = [len(s) for s in sequences]
    return SimpleNamespace(
        n_items=n_items,
        user_indptr=np.concatenate([[0], np.cumsum(lengths)]),
        train_user=np.repeat(np.arange(len(sequences)), lengths).astype(np.int32),
        train_item=np.array(list(itertools.chain(*sequences)), np.int32),
    )


def by_hand(sequences, n_items, window, decay):
    counts = np.zeros((n_items, n_items))
    for sequence in sequences:
        for i, source in enumerate(sequence):
            for distance, target in enumerate(sequence[i + 1 : i + 1 + window]):
                counts[source, target] += decay**distance
    return counts


@pytest.mark.parametrize(("window", "decay"), [(1, 0.8), (3, 0.5), (50, 1.0)])
@pytest.mark.parametrize("damping", ["none", "log"])
def test_the_matrix_is_what_counting_gives(window, decay, damping, tmp_path):
    rng = np.random.default_rng(0)
    sequences = [rng.permutation(12)[: rng.integers(0, 12)].tolist() for _ in range(20)]
    config = TransitionsConfig(window=window, decay=decay, damping=damping)
    matrix = transition_matrix(a_dataset(sequences, 13), config, tmp_path)
    expected = by_hand(sequences, 13, window, decay)
    expected = np.log1p(expected) if damping == "log" else expected
    np.testing.assert_allclose(matrix.toarray(), expected, rtol=1e-6)
    assert matrix.nnz == np.count_nonzero(expected)  # only pairs that occur are held
    save_matrix(matrix, tmp_path)
    np.testing.assert_array_equal(load_matrix(tmp_path, 13).toarray(), matrix.toarray())


def test_one_users_last_item_does_not_lead_to_the_nexts_first(tmp_path):
    matrix = transition_matrix(
        a_dataset([[0, 1], [2, 3]], 4), TransitionsConfig(window=5), tmp_path
    )
    assert sorted(zip(*matrix.nonzero(), strict=True)) == [(0, 1), (2, 3)]


def test_users_of_one_item_lead_nowhere(tmp_path):
    matrix = transition_matrix(a_dataset([[0], [1]], 2), TransitionsConfig(window=2), tmp_path)
    assert (matrix.shape, matrix.nnz) == ((2, 2), 0)
