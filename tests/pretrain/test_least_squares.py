"""Alternating least squares against dense linear algebra, one row at a time."""

import numpy as np
import pytest
import torch
from scipy import sparse

from cadc_rec.config.experiment import AlsConfig, ComputeConfig
from cadc_rec.data.randomness import Purpose
from cadc_rec.distributed.processes import processes
from cadc_rec.pretrain import column_blocks, least_squares
from cadc_rec.pretrain.als import confidences, train_als
from cadc_rec.pretrain.alternating import Interactions
from cadc_rec.pretrain.blocked_products import BlockedProducts
from cadc_rec.pretrain.factor_tables import ReplicatedTable
from cadc_rec.pretrain.least_squares import Entries, LeastSquares

ROWS, COLUMNS, DIM = 30, 20, 5
KEY = (0, Purpose.ALS_INITIALIZATION)


@pytest.fixture
def alone():
    with processes(ComputeConfig(device="cpu", threads=1)) as joined:
        yield joined


def a_matrix(seed=0, density=0.3):
    rng = np.random.default_rng(seed)
    dense = rng.random((ROWS, COLUMNS)) * (rng.random((ROWS, COLUMNS)) < density)
    dense[3] = 0  # a row without entries
    return dense, sparse.csr_array(dense.astype(np.float32))


def solved(values, weights, steps, alone, sweeps=4, l2=0.7):
    left, right = torch.zeros(ROWS, DIM), torch.zeros(COLUMNS, DIM)
    solver = LeastSquares.of_matrix(left, right, values, weights, l2, steps, KEY, alone)
    for _ in solver.sweeps(sweeps):
        pass
    return left.double().numpy(), right.double().numpy()


def expected_columns(left, values, weights, l2):
    """Each column's exact solution, rows fixed: weighted ridge regression on all entries."""
    return np.stack(
        [
            np.linalg.solve(
                left.T @ (weights[:, c, None] * left) + l2 * np.eye(DIM),
                left.T @ (weights[:, c] * values[:, c]),
            )
            for c in range(COLUMNS)
        ]
    )


def test_the_last_half_sweep_is_every_columns_ridge_regression(alone):
    dense, values = a_matrix()
    left, right = solved(values, None, 0, alone)
    np.testing.assert_allclose(
        right, expected_columns(left, dense, np.ones_like(dense), 0.7), rtol=1e-4, atol=1e-6
    )
    assert np.abs(right).max() > 0.1
    assert (left[3] == 0).all()


def test_weights_count_where_something_was_observed_and_one_elsewhere(alone):
    dense, values = a_matrix()
    weights = np.where(dense > 0, 1 + 9 * dense, 1.0)
    of_entries = weights[dense > 0].astype(np.float32)
    # as many steps as elements: conjugate gradients have then reached the solution
    left, right = solved(values, of_entries, DIM + 1, alone)
    np.testing.assert_allclose(
        right, expected_columns(left, dense, weights, 0.7), rtol=2e-3, atol=1e-4
    )


def test_weights_of_one_give_the_exact_solution_too(alone):
    _, values = a_matrix()
    exact = solved(values, None, 0, alone)
    by_steps = solved(values, np.ones(values.nnz, np.float32), DIM + 1, alone)
    for a, b in zip(exact, by_steps, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)


def test_every_sweep_lowers_the_loss(alone):
    dense, values = a_matrix()
    losses = []
    for sweeps in (1, 2, 4, 8):
        left, right = solved(values, None, 0, alone, sweeps)
        losses.append(
            ((dense - left @ right.T) ** 2).sum() + 0.7 * ((left**2).sum() + (right**2).sum())
        )
    assert losses == sorted(losses, reverse=True)


def test_confidences_halve_with_age_and_are_left_out_where_all_are_one():
    indptr = np.array([0, 3, 3, 5])
    assert confidences(indptr, AlsConfig()) is None
    got = confidences(indptr, AlsConfig(alpha=4.0, half_life=2.0))
    np.testing.assert_allclose(got, [2.0, 4 * 0.5**0.5, 4.0, 4 * 0.5**0.5, 4.0], rtol=1e-6)
    np.testing.assert_allclose(confidences(indptr, AlsConfig(alpha=3.0)), 3.0)


@pytest.mark.parametrize(
    ("interactions", "alpha"), [(10 * 7, 16.0), (10 * 20, 4.0), (10 * 40, 1.0), (10 * 160, 1.0)]
)
def test_a_confidence_of_0_is_chosen_by_the_interactions_of_a_user(interactions, alpha):
    assert AlsConfig(alpha=0.0).sized(interactions, 10).alpha == alpha
    assert AlsConfig(alpha=3.0).sized(interactions, 10).alpha == 3.0


def a_world(seed=0, users=300, items=120, per_user=20):
    """Users and items of four kinds; a user takes mostly items of its own kind."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        weight = np.where(np.arange(items) % 4 == user % 4, 10.0, 1.0)
        rows.append(rng.choice(items, per_user, replace=False, p=weight / weight.sum()))
    taken = np.stack(rows)
    by_user = sparse.csr_array(
        (np.ones(taken.size), taken.ravel(), np.arange(users + 1) * per_user), shape=(users, items)
    )
    by_item = by_user.T.tocsr()
    return by_user, Interactions(
        by_user.indptr.astype(np.int64),
        by_user.indices.astype(np.int32),
        by_item.indptr.astype(np.int64),
        by_item.indices.astype(np.int32),
    )


def implicit_loss(user, item, seen, config):
    weight = np.where(seen, config.alpha, 1.0)
    return (weight * (seen - user @ item.T) ** 2).sum() + config.l2 * (
        (user**2).sum() + (item**2).sum()
    )


@pytest.mark.parametrize("alpha", [1.0, 6.0])
def test_als_reaches_the_loss_of_the_library_implicit(alpha, alone):
    """The same objective, by its own solver: neither is better by more than half a percent."""
    implicit = pytest.importorskip("implicit.als")
    by_user, data = a_world()
    config = AlsConfig(alpha=alpha, l2=2.0, iterations=40)
    user, item = torch.zeros(data.n_users, 8), torch.zeros(data.n_items, 8)
    for _ in train_als(ReplicatedTable(user, alone), ReplicatedTable(item, alone), data, config, 0):
        pass
    theirs = implicit.AlternatingLeastSquares(
        factors=8, regularization=2.0, alpha=alpha, iterations=40, random_state=0, num_threads=1
    )
    matrix = sparse.csr_matrix(by_user.astype(np.float32))
    theirs.fit(matrix, show_progress=False)
    seen = by_user.toarray() > 0
    ours = implicit_loss(user.double().numpy(), item.double().numpy(), seen, config)
    reference = implicit_loss(
        theirs.user_factors.astype(float), theirs.item_factors.astype(float), seen, config
    )
    assert ours == pytest.approx(reference, rel=0.005)


def test_the_weight_of_an_interaction_multiplies_its_confidence():
    indptr, weights = np.array([0, 2, 3]), np.array([1.0, 0.5, 3.0], np.float32)
    got = confidences(indptr, AlsConfig(), weights)
    np.testing.assert_allclose(got, weights)
    got = confidences(indptr, AlsConfig(alpha=2.0, half_life=1.0), weights)
    np.testing.assert_allclose(got, [2 * 0.5, 2 * 0.5, 2 * 3.0])


def test_confidences_are_formed_in_float64_whatever_the_weights_are():
    weights = np.random.default_rng(0).random(1000).astype(np.float32)
    got = confidences(np.array([0, 1000]), AlsConfig(alpha=0.1), weights)
    np.testing.assert_array_equal(got, (0.1 * weights.astype(np.float64)).astype(np.float32))
    assert (got != np.float32(0.1) * weights).any()


@pytest.mark.parametrize(("most", "expected"), [(2**27, 1), (100, 2)])
def test_a_small_problem_is_one_threads_and_the_others_come_back(
    alone, monkeypatch, most, expected
):
    seen, sums = set(), least_squares.weighted_sums
    monkeypatch.setattr(least_squares, "_SMALL_WORK", most)
    monkeypatch.setattr(
        least_squares,
        "weighted_sums",
        lambda *given: seen.add(torch.get_num_threads()) or sums(*given),
    )
    _, values = a_matrix()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        solved(values, None, 0, alone)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == {expected}


@pytest.mark.parametrize("half_life", [2.0, 0.0])
@pytest.mark.parametrize("alpha", [5.0, 1.0])
def test_a_table_larger_than_the_caches_is_read_by_blocks_with_the_same_result(
    alone, monkeypatch, alpha, half_life
):
    rng = np.random.default_rng(4)
    n_users, n_items = 400, 6
    taken = [np.sort(rng.choice(n_items, rng.integers(1, 5), False)) for _ in range(n_users)]
    indptr = np.concatenate([[0], np.cumsum([len(items) for items in taken])])
    matrix = sparse.csr_array(
        (np.ones(indptr[-1]), np.concatenate(taken), indptr), shape=(n_users, n_items)
    )
    by_item = matrix.tocsc()
    data = Interactions(
        indptr.astype(np.int64),
        matrix.indices.astype(np.int32),
        by_item.indptr.astype(np.int64),
        by_item.indices.astype(np.int32),
        rng.uniform(0.5, 2, indptr[-1]).astype(np.float32) if half_life else None,
    )

    def tables():
        weights = torch.zeros(n_users, 4), torch.zeros(n_items, 4)
        users, items = (ReplicatedTable(weight, alone) for weight in weights)
        config = AlsConfig(iterations=3, half_life=half_life, alpha=alpha)
        for _ in train_als(users, items, data, config, 0):
            pass
        return weights

    seen = []
    of = BlockedProducts.of
    monkeypatch.setattr(BlockedProducts, "of", lambda *given: seen.append(given) or of(*given))
    expected = tables()
    assert not seen
    monkeypatch.setattr(column_blocks, "_LARGE_TABLE", 1000)
    monkeypatch.setattr(column_blocks, "_WANTED", 1024)  # 64 users of 16 bytes
    monkeypatch.setattr(column_blocks, "_WORTH_ORDERING", 1)
    received = tables()
    assert len(seen) == 1  # the items' entries; the users' table is the large one
    for a, b in zip(expected, received, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)
        assert a.abs().max() > 0.1


def test_entries_by_blocks_do_not_keep_the_arrays_that_they_were_ordered_from(monkeypatch):
    monkeypatch.setattr(column_blocks, "_LARGE_TABLE", 1)
    monkeypatch.setattr(column_blocks, "_WANTED", 1024)
    monkeypatch.setattr(column_blocks, "_WORTH_ORDERING", 1)
    matrix = sparse.csr_array(np.ones((2, 400), np.float32))
    entries = Entries.of(matrix, np.full(800, 3.0, np.float32), torch.device("cpu"))
    ordered = entries.in_blocks((400, 4))
    assert ordered.blocked is not None
    assert ordered.pull.untyped_storage().nbytes() == 0
    assert ordered.extra.untyped_storage().nbytes() == 0
    assert (ordered.blocked.pull == 3).all()
    assert (ordered.blocked.extra == 2).all()
