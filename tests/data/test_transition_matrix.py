"""Which item followed which, against counting by hand."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from cadc_rec.config.experiment import TransitionsConfig
from cadc_rec.data.transition_matrix import transition_matrix


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
def test_the_matrix_is_what_counting_gives(window, decay, damping):
    rng = np.random.default_rng(0)
    sequences = [rng.permutation(12)[: rng.integers(0, 12)].tolist() for _ in range(20)]
    config = TransitionsConfig(window=window, decay=decay, damping=damping)
    matrix = transition_matrix(a_dataset(sequences, 13), config)
    expected = by_hand(sequences, 13, window, decay)
    expected = np.log1p(expected) if damping == "log" else expected
    np.testing.assert_allclose(matrix.toarray(), expected, rtol=1e-6)
    assert matrix.nnz == np.count_nonzero(expected)  # only pairs that occur are held


def test_normalized_counts_are_over_a_power_of_both_sums_with_a_mean_of_one():
    rng = np.random.default_rng(3)
    sequences = [rng.permutation(12)[: rng.integers(0, 12)].tolist() for _ in range(20)]
    config = TransitionsConfig(window=3, decay=0.5, normalization=0.3)
    matrix = transition_matrix(a_dataset(sequences, 13), config)  # nobody has the thirteenth item
    counts = by_hand(sequences, 13, 3, 0.5)
    occurs = counts > 0
    scaled = np.zeros_like(counts)
    sums = np.outer(counts.sum(1), counts.sum(0))
    scaled[occurs] = counts[occurs] / sums[occurs] ** 0.3
    scaled /= scaled[occurs].mean()
    np.testing.assert_allclose(matrix.toarray(), np.log1p(scaled), rtol=1e-6)


def test_one_users_last_item_does_not_lead_to_the_nexts_first():
    matrix = transition_matrix(a_dataset([[0, 1], [2, 3]], 4), TransitionsConfig(window=5))
    assert sorted(zip(*matrix.nonzero(), strict=True)) == [(0, 1), (2, 3)]


def test_users_of_one_item_lead_nowhere():
    matrix = transition_matrix(a_dataset([[0], [1]], 2), TransitionsConfig(window=2))
    assert (matrix.shape, matrix.nnz) == ((2, 2), 0)


def test_nothing_follows_in_a_dataset_without_interactions():
    matrix = transition_matrix(a_dataset([[], []], 3), TransitionsConfig(window=2))
    assert (matrix.shape, matrix.nnz) == ((3, 3), 0)


@pytest.mark.parametrize("block", [1, 7, 60, 100_000])
def test_an_item_may_follow_itself_and_blocks_of_any_size_give_the_same(block):
    """Items repeat; the first has more interactions than a small block has room for."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 60, 30)
    sequences = [(9 * rng.random(n) ** 3).astype(int).tolist() for n in lengths]
    config = TransitionsConfig(window=4, decay=0.7, damping="none")
    matrix = transition_matrix(a_dataset(sequences, 11), config, block)
    expected = by_hand(sequences, 11, 4, 0.7)
    assert expected[0, 0] > 100  # its pairs with itself
    np.testing.assert_allclose(matrix.toarray(), expected, rtol=1e-6)
    assert matrix.has_canonical_format  # a pair stands once, columns ascend
