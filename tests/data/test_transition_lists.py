"""Lists of best targets, and the scores they give, against dense NumPy."""

import numpy as np
import pytest
from scipy import sparse

from cadc_rec.data.transition_lists import TransitionLists, best_targets


def a_matrix(n=40, share=0.3, seed=0):
    rng = np.random.default_rng(seed)
    # few different weights, so that many are equal
    dense = rng.integers(1, 5, (n, n)) * (rng.random((n, n)) < share)
    dense[7] = 0  # leads nowhere
    return sparse.csr_array(dense.astype(np.float32))


def by_hand(matrix, most):
    """Each row's largest, of equal ones those of the first columns."""
    lists = []
    for row in matrix.toarray():
        order = sorted(np.flatnonzero(row), key=lambda column: (-row[column], column))
        lists.append([(int(column), float(row[column])) for column in order[:most]])
    return lists


@pytest.mark.parametrize("most", [1, 4, 1000])
@pytest.mark.parametrize("block", [1, 13, 10_000])
def test_each_item_keeps_its_largest_weights(most, block):
    matrix = a_matrix()
    lists = best_targets(matrix, most, block)
    found = [
        list(zip(lists.items[a:b].tolist(), lists.weights[a:b].tolist(), strict=True))
        for a, b in zip(lists.indptr[:-1], lists.indptr[1:], strict=True)
    ]
    assert found == by_hand(matrix, most)


def test_lists_are_read_as_they_were_written(tmp_path):
    lists = best_targets(a_matrix(), 3)
    before = lists.items.copy(), lists.weights.copy()
    lists.scores(np.array([[1, 2]], np.int32), 0.5)  # reading them changes nothing
    lists.save(tmp_path / "lists")
    again = TransitionLists.open(tmp_path / "lists")
    np.testing.assert_array_equal(again.items, before[0])
    np.testing.assert_array_equal(again.weights, before[1])
    for name in ("indptr", "items", "weights"):
        np.testing.assert_array_equal(getattr(again, name), getattr(lists, name))
        assert getattr(again, name).dtype == getattr(lists, name).dtype


def test_a_score_is_the_mean_of_the_historys_lists_weighted_by_place():
    lists = best_targets(a_matrix(), 5)
    dense = lists.matrix.toarray().astype(np.float64)
    rng = np.random.default_rng(1)
    history = rng.integers(0, 40, (9, 6)).astype(np.int32)
    for row, length in enumerate((6, 6, 3, 1, 0, 2, 5, 6, 4)):
        history[row, length:] = -1
    history[5, :2] = 7  # items that lead nowhere
    found = lists.scores(history, 0.6).toarray()
    for row, past in enumerate(history):
        items = past[past >= 0]
        weights = 0.6 ** np.arange(len(items))
        expected = (weights[:, None] * dense[items]).sum(0) / max(weights.sum(), 1e-12)
        np.testing.assert_allclose(found[row], expected, rtol=1e-6)


def test_the_scores_of_a_history_do_not_depend_on_its_neighbours():
    lists = best_targets(a_matrix(), 5)
    history = np.random.default_rng(2).integers(-1, 40, (30, 6)).astype(np.int32)
    history = -np.sort(-history, axis=1)  # what has ended comes last
    whole = lists.scores(history, 0.7).toarray()
    parts = [lists.scores(history[at : at + 7], 0.7).toarray() for at in range(0, 30, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_without_items_or_interactions_there_are_empty_lists():
    lists = best_targets(sparse.csr_array((3, 3), dtype=np.float32), 5)
    assert lists.indptr.tolist() == [0, 0, 0, 0]
    assert lists.scores(np.array([[2, 0], [-1, -1]], np.int32), 0.5).nnz == 0


def test_weights_of_any_sign_and_columns_in_any_order_are_sorted():
    rng = np.random.default_rng(7)
    values = (rng.integers(-4, 5, (15, 15)) / 3).astype(np.float32)
    dense = sparse.csr_array(values)
    order = np.concatenate([
        rng.permutation(np.arange(a, b))
        for a, b in zip(dense.indptr[:-1], dense.indptr[1:], strict=True)
    ])  # fmt: skip
    mixed = sparse.csr_array((dense.data[order], dense.indices[order], dense.indptr), dense.shape)
    assert not mixed.has_sorted_indices
    lists = best_targets(mixed, 6)
    found = [
        list(zip(lists.items[a:b].tolist(), lists.weights[a:b].tolist(), strict=True))
        for a, b in zip(lists.indptr[:-1], lists.indptr[1:], strict=True)
    ]
    assert found == by_hand(dense, 6)
