"""ALS of the training interactions (`pretrain.least_squares`).

Every interaction's m is 1 and its weight ``alpha * weight * 2 ** (-age / half_life)`` (weight: the
interaction's own, 1 where the data has none; age: how many interactions the user had after it).

In: D_full in both orders, of which a rank reads its share. Out: two `FactorTable`s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy import sparse

from cadc_rec.config.experiment import AlsConfig
from cadc_rec.data.columns import rows_of_items
from cadc_rec.data.randomness import Purpose
from cadc_rec.pretrain.alternating import Interactions
from cadc_rec.pretrain.factor_tables import FactorTable, ReplicatedTable
from cadc_rec.pretrain.least_squares import Entries, LeastSquares, Only

_PIECE = 2**20  # confidences formed at once


def confidences(
    indptr: np.ndarray, config: AlsConfig, weights: np.ndarray | None = None
) -> np.ndarray | None:
    """Confidence of each interaction of consecutive users, float32 ``[n]``; None where all are 1.

    Args:
        indptr: int64 ``[users + 1]``; a user's interactions are in the order of time.
        config: ``alpha`` and ``half_life``.
        weights: of the interactions themselves ``[n]``; None is 1 for all.
    """
    if not _counts(config, weights):
        return None
    first = int(indptr[0])

    def ages(piece: slice) -> np.ndarray:
        places = slice(piece.start + first, piece.stop + first)
        low, high = np.searchsorted(indptr, [places.start, places.stop - 1], "right")
        inside = np.clip(indptr[low - 1 : high + 1], places.start, places.stop)
        return (
            np.repeat(indptr[low : high + 1], np.diff(inside))
            - 1
            - np.arange(places.start, places.stop)
        )

    given = None if weights is None else weights.__getitem__
    return _confidences(int(indptr[-1]) - first, ages, given, config)


def _counts(config: AlsConfig, weights: np.ndarray | None) -> bool:
    """Whether any confidence is not 1."""
    return config.alpha != 1 or bool(config.half_life) or weights is not None


def _confidences(
    n: int,
    ages: Callable[[slice], np.ndarray],
    weights: Callable[[slice], np.ndarray] | None,
    config: AlsConfig,
) -> np.ndarray:
    """Confidences ``[n]``, formed piece by piece: on the way each takes several times as much."""
    found = np.empty(n, np.float32)
    for start in range(0, n, _PIECE):
        piece = slice(start, min(start + _PIECE, n))
        # In float64, whatever the weights are: NumPy would let a Python float take their type.
        of_age = 0.5 ** (ages(piece) / config.half_life) if config.half_life else np.float64(1.0)
        of_row = 1.0 if weights is None else weights(piece)
        found[piece] = config.alpha * (of_age * of_row)
    return found


def train_als(
    user: FactorTable,
    item: FactorTable,
    data: Interactions,
    config: AlsConfig,
    seed: int,
    only: Only | None = None,
    warm: bool = False,
) -> Iterator[None]:
    """Fill both tables, a sweep at a time.

    Args:
        user: ``[n_users, dim]``.
        item: ``[n_items, dim]``.
        data: D_full.
        config: sweeps, confidences, L2.
        seed: of the initial vectors.
        only: the users and items to solve, ascending; default: all.
        warm: start from what the tables hold.
    """
    users, items = (None, None) if only is None else (user.mine(only[0]), item.mine(only[1]))
    entries = (
        _of_users(data, config, user, users),
        _of_items(data, config, item, items),
    )
    key = None if warm else (seed, Purpose.ALS_INITIALIZATION)
    steps = config.conjugate_gradient_steps
    solver = LeastSquares(user, item, entries, config.l2, steps, key, only)
    yield from solver.sweeps(config.iterations)


def _of_users(
    data: Interactions, config: AlsConfig, table: FactorTable, only: np.ndarray | None
) -> Entries:
    """This rank's users, or `only` those."""
    share = table.rows
    indptr = data.user_indptr[share.start : share.stop + 1]
    part = slice(int(indptr[0]), int(indptr[-1]))
    weights = None if data.weights is None else data.weights[part]
    found = confidences(indptr, config, weights)
    return _entries(indptr, data.items_by_user[part], data.n_items, found, table, only)


def _of_items(
    data: Interactions, config: AlsConfig, table: FactorTable, only: np.ndarray | None
) -> Entries:
    """This rank's items, or `only` those."""
    share = table.rows
    indptr = data.item_indptr[share.start : share.stop + 1]
    users = data.users_by_item[int(indptr[0]) : int(indptr[-1])]
    found = None
    if _counts(config, data.weights):
        every, rows = data.weights, np.empty(0, np.int64)
        if config.half_life or every is not None:
            _, rows = rows_of_items(data.items_by_user, share)

        def ages(piece: slice) -> np.ndarray:
            return data.user_indptr[users[piece] + 1] - 1 - rows[piece]

        weights = None if every is None else lambda piece: every[rows[piece]]
        found = _confidences(len(users), ages, weights, config)
        del rows
    return _entries(indptr, users, data.n_users, found, table, only)


def _entries(
    indptr: np.ndarray,
    columns: np.ndarray,
    n_columns: int,
    weights: np.ndarray | None,
    table: FactorTable,
    only: np.ndarray | None,
) -> Entries:
    def matrix(values: np.ndarray) -> sparse.csr_array:
        shape = (len(indptr) - 1, n_columns)
        # In 32 bits where it can be: SciPy would copy the columns to 64, too.
        pointers = (indptr - indptr[0]).astype(np.int32 if len(columns) < 2**31 else np.int64)
        whole = sparse.csr_array((values, columns, pointers), shape=shape)
        return whole if only is None else whole[only]

    found = None if weights is None else matrix(weights).data
    values = matrix(np.ones(len(columns), np.float32))
    entries = Entries.of(values, found, table.local.device)
    if isinstance(table, ReplicatedTable):  # then so is the other, which the columns name
        return entries.in_blocks((n_columns, table.local.shape[1]))
    return entries
