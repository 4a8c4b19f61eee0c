"""HR@K and NDCG@K of one held-out item a user.

With a single relevant item, HR@K is the share of users whose item ranks within K, and NDCG@K the
mean of 1 / log2(rank + 1) over them, 0 for the others (the ideal gain is 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ranking_metrics(ranks: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
    """Metrics as fractions, ``hr@K`` and ``ndcg@K`` for every K.

    Args:
        ranks: rank of each user's held-out item, from 1; int ``[users]``.
        ks: the cut-offs.

    Raises:
        ValueError: no ranks.
    """
    if len(ranks) == 0:
        raise ValueError("no user has a held-out item")
    metrics = {}
    gains = 1.0 / np.log2(ranks.astype(np.float64) + 1.0)
    for k in ks:
        hit = ranks <= k
        metrics[f"hr@{k}"] = float(hit.mean())
        metrics[f"ndcg@{k}"] = float(np.where(hit, gains, 0.0).mean())
    return metrics
