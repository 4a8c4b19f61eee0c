"""Losses on the scores of a batch's pairs."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def binary_cross_entropy(scores: torch.Tensor, negatives: int) -> torch.Tensor:
    """Summed binary cross-entropy of positives and their sampled negatives.

    The sum, not the mean: only the caller knows how many pairs the whole step has over all ranks.

    Args:
        scores: ``[B * (1 + K)]`` logits, each positive followed by its K negatives.
        negatives: K.
    """
    by_positive = scores.view(-1, 1 + negatives)
    return F.softplus(-by_positive[:, 0]).sum() + F.softplus(by_positive[:, 1:]).sum()
