"""Metrics of one held-out item a user, and of the lists of the K best items.

With a single relevant item, HR@K is the share of users whose item ranks within K, and NDCG@K the
mean of 1 / log2(rank + 1) over them, 0 for the others (the ideal gain is 1). Recall@K is HR@K then,
and MAP@K is MRR@K. Coverage, Gini and the tail's share look at what is recommended, right or wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

_HEAD = (4, 5)  # the head holds at least this share of the training interactions


def _hit(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.ones_like(ranks)


def _discounted(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / np.log2(ranks + 1.0)


def _reciprocal(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / ranks


# What a hit at each rank counts.
_GAINS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "hr": _hit,
    "ndcg": _discounted,
    "recall": _hit,
    "mrr": _reciprocal,
    "map": _reciprocal,
}
ALWAYS = ("hr", "ndcg")


def rank_gains(ranks: np.ndarray, metric: str) -> np.ndarray:
    """Each user's part of a metric whose mean over users is that metric.

    Args:
        ranks: rank of each user's held-out item, from 1; int ``[users]``.
        metric: a name and a cut-off: ``hr@K``, ``ndcg@K``, ``recall@K``, ``mrr@K``, ``map@K``.

    Returns:
        float64 ``[users]``.

    Raises:
        ValueError: no such metric.
    """
    name, _, cutoff = metric.partition("@")
    if name not in _GAINS or not cutoff.isdecimal():
        raise ValueError(f"no metric named {metric!r}")
    return np.where(ranks <= int(cutoff), _GAINS[name](ranks.astype(np.float64)), 0.0)


def is_of_ranks(metric: str) -> bool:
    """Whether a metric, such as ``hr@K``, is a mean over users of what their ranks give."""
    return metric.partition("@")[0] in _GAINS


def ranking_metrics(
    ranks: np.ndarray, ks: Sequence[int], more: Collection[str] = ()
) -> dict[str, float]:
    """Metrics as fractions, such as ``hr@K`` and ``ndcg@K`` for every K.

    Args:
        ranks: rank of each user's held-out item, from 1; int ``[users]``.
        ks: the cut-offs.
        more: metrics beside these two; names that do not come from ranks are passed over.

    Raises:
        ValueError: no ranks.
    """
    if len(ranks) == 0:
        raise ValueError("no user has a held-out item")
    names = [*ALWAYS, *(name for name in more if name in _GAINS)]
    metrics = [f"{name}@{k}" for k in ks for name in names]
    return {metric: float(rank_gains(ranks, metric).mean()) for metric in metrics}


def coverage(counts: NDArray[np.int64]) -> float:
    """Share of the items that stand in somebody's list."""
    return float((counts > 0).mean())


def gini(counts: NDArray[np.int64]) -> float:
    """Gini index of how often items are recommended: 0 if all alike, near 1 if few take all."""
    n, total = len(counts), int(counts.sum())
    places = 2 * np.arange(1, n + 1) - n - 1
    return float((places * np.sort(counts)).sum() / (n * total)) if total else 0.0


def tail_items(popularity: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Items outside the head: the fewest items, most popular first, with 80% of interactions.

    Args:
        popularity: training interactions of each item; ``[n_items]``. Of equal ones the lower row
            comes first.
    """
    order = np.argsort(-popularity, kind="stable")
    part, whole = _HEAD
    held = np.cumsum(popularity[order]) * whole
    head = int(np.searchsorted(held, part * int(popularity.sum()))) + 1
    tail = np.ones(len(popularity), bool)
    tail[order[:head]] = False
    return tail


_OF_LISTS: dict[str, Callable[[NDArray[np.int64], NDArray[np.int64]], float]] = {
    "coverage": lambda counts, _: coverage(counts),
    "gini": lambda counts, _: gini(counts),
    "tail": lambda counts, popularity: float(
        counts[tail_items(popularity)].sum() / max(int(counts.sum()), 1)
    ),
}


def needs_lists(more: Collection[str]) -> bool:
    """Whether one of these metrics looks at the lists of the K best items."""
    return any(name in _OF_LISTS for name in more)


def list_metrics(
    counts: Mapping[int, NDArray[np.int64]], popularity: NDArray[np.int64], more: Collection[str]
) -> dict[str, float]:
    """Metrics as fractions, such as ``coverage@K`` for every K.

    Args:
        counts: for each K, in how many users' lists each item stands; int64 ``[n_items]``.
        popularity: training interactions of each item; int64 ``[n_items]``.
        more: the metrics; names that do not come from lists are passed over.
    """
    return {
        f"{name}@{k}": _OF_LISTS[name](of_k, popularity)
        for k, of_k in counts.items()
        for name in more
        if name in _OF_LISTS
    }
