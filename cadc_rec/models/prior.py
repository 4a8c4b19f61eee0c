"""Predicts a user's next item by the frozen tables alone, from the items before it.

Two scores of an item i after a history h_1 (the latest), h_2, ...:

- *folded in*: x . y_i, where x is what ALS would give a user of this history: the solution of
  (Y'Y + l2 I + sum_j (c_j - 1) y_j y_j') x = sum_j c_j y_j, with y_j the item vector of h_j and
  confidences c_j = alpha 2^(-(j - 1) / half_life) (Hu, Koren and Volinsky 2008, fading);
- *led to*: s . t_i, where s is the mean of the source vectors of the history weighted by
  decay^(j - 1), and t_i the target vector of i (`cadc_rec.data.transition_matrix`).

Both are dot products with vectors that never change, so they are further elements of the towers'
vectors. An example's own item is not in its history, so the scores mean the same in training as in
ranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cadc_rec.config.experiment import PriorConfig
from cadc_rec.models.conjugate_gradients import conjugate_gradients

_STEPS = 6  # of conjugate gradients: two orders of magnitude below what changes a rank
AT_FIRST = 0.5
"""Standard deviation of a prior score over items before its factor is learned."""


@dataclass(frozen=True)
class HistoryPrior:
    """Vectors of histories in the frozen tables' spaces.

    Attributes:
        gram: Y'Y of the whole item table, ``[d, d]``.
        config: confidences, regularization, decay.
    """

    gram: torch.Tensor
    config: PriorConfig

    @classmethod
    def of(cls, items: torch.Tensor, config: PriorConfig) -> HistoryPrior:
        """The prior of an item table ``[n_items, d]``."""
        exact = items.double()  # one matrix for all rows: its rounding would be every row's
        return cls((exact.t() @ exact).to(items.dtype), config)

    def to(self, device: torch.device) -> HistoryPrior:
        """The same on `device`."""
        return HistoryPrior(self.gram.to(device), self.config)

    @torch.no_grad()
    def folded(self, vectors: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """User vectors ``[n, d]`` that ALS would give these histories; zeros for an empty one.

        In float64, rounded at the end: each step multiplies the rounding before it by ten or so,
        and in float32 a vector differed by a thousandth with the rows beside it in a batch.

        Args:
            vectors: item vectors of the history, ``[n, L, d]``, the latest first; zeros where it
                has ended.
            known: bool ``[n, L]``, false where it has ended.
        """
        kind, vectors, gram = vectors.dtype, vectors.double(), self.gram.double()
        place = torch.arange(known.shape[1], device=vectors.device, dtype=vectors.dtype)
        confidence = self.config.alpha * torch.exp2(-place / self.config.half_life)
        extra = (confidence - 1) * known
        gram = gram + self.config.l2 * gram.diagonal().mean() * torch.eye(
            gram.shape[0], device=vectors.device, dtype=vectors.dtype
        )

        def times(x: torch.Tensor) -> torch.Tensor:
            """Every row's own matrix times its vector."""
            along = torch.bmm(vectors, x[:, :, None])[:, :, 0] * extra
            return torch.addmm(torch.bmm(along[:, None], vectors)[:, 0], x, gram)

        target = weighted_sum(vectors, confidence * known)
        return conjugate_gradients(times, torch.zeros_like(target), target, _STEPS).to(kind)

    @torch.no_grad()
    def led(self, sources: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Weighted means ``[n, e]`` of the source vectors ``[n, L, e]``; zeros for no history."""
        place = torch.arange(known.shape[1], device=sources.device)
        weight = self.config.decay**place * known
        return weighted_sum(sources, weight / weight.sum(1, keepdim=True).clamp_min(1e-12))


def weighted_sum(vectors: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """``[n, d]`` of ``[n, L, d]`` and ``[n, L]``."""
    return torch.bmm(weights[:, None], vectors)[:, 0]


def even_factors(users: Sequence[torch.Tensor], items: Sequence[torch.Tensor]) -> list[float]:
    """Factors that bring each prior score to a standard deviation of one half over items.

    Args:
        users: for each score, vectors ``[n, d]`` of a few histories.
        items: for each score, vectors ``[n_items, d]``.

    Returns:
        One for each score; 1 where a score is the same for all items.
    """
    factors = []
    for mine, theirs in zip(users, items, strict=True):
        spread = float((mine @ theirs.t()).std(1).mean()) if len(mine) and len(theirs) > 1 else 0.0
        factors.append(AT_FIRST / spread if spread > 0 else 1.0)
    return factors
