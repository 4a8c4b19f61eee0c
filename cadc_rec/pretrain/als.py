"""Implicit-feedback ALS: vectors of users and items from every training interaction.

What a user took counts as 1, everything else as 0; an interaction's confidence is
``alpha * weight * 2 ** (-age / half_life)`` (weight: the interaction's own, 1 where the data has
none; age: how many interactions the user had after it), that of any other pair is 1. Solved by
`pretrain.least_squares`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy import sparse

from cadc_rec.config.experiment import AlsConfig
from cadc_rec.data.randomness import Purpose
from cadc_rec.distributed.processes import Processes
from cadc_rec.pretrain.alternating import Interactions
from cadc_rec.pretrain.least_squares import LeastSquares


def confidences(
    indptr: np.ndarray, config: AlsConfig, weights: np.ndarray | None = None
) -> np.ndarray | None:
    """Confidence of each interaction, float32 ``[n]``; None where it is 1 for all.

    Args:
        indptr: int64 ``[n_users + 1]``; a user's interactions are in the order of time.
        config: ``alpha`` and ``half_life``.
        weights: of the interactions themselves ``[n]``; None is 1 for all.
    """
    if config.alpha == 1 and not config.half_life and weights is None:
        return None
    counts = np.diff(indptr)
    age = np.repeat(indptr[1:], counts) - 1 - np.arange(indptr[-1])
    decay = 0.5 ** (age / config.half_life) if config.half_life else np.ones(len(age))
    weighted = decay if weights is None else decay * weights
    return (config.alpha * weighted).astype(np.float32)


def train_als(
    user: torch.Tensor,
    item: torch.Tensor,
    data: Interactions,
    config: AlsConfig,
    seed: int,
    processes: Processes,
    only: tuple[np.ndarray, np.ndarray] | None = None,
    warm: bool = False,
) -> Iterator[None]:
    """Fill both tables, a sweep at a time.

    Args:
        user: ``[n_users, dim]``, equal on all ranks.
        item: ``[n_items, dim]``, likewise.
        data: D_full.
        config: sweeps, confidences, L2.
        seed: of the initial vectors.
        processes: the ranks that share the rows.
        only: the users and items to solve, ascending; default: all.
        warm: start from what the tables hold.
    """
    values = sparse.csr_array(
        (np.ones(len(data), np.float32), data.items_by_user, data.user_indptr),
        shape=(data.n_users, data.n_items),
    )
    solver = LeastSquares(
        user,
        item,
        values,
        confidences(data.user_indptr, config, data.weights),
        config.l2,
        config.conjugate_gradient_steps,
        None if warm else (seed, Purpose.ALS_INITIALIZATION),
        processes,
        only,
    )
    yield from solver.sweeps(config.iterations)
