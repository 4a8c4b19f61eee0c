"""What a step minimizes: from the scores of a batch to a summed loss."""

from __future__ import annotations

import functools
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaln
from torch.nn import functional as F

from cadc_rec.config.experiment import TrainConfig
from cadc_rec.data.load.batches import Batch
from cadc_rec.models.forward import Scores


class Objective(Protocol):
    """A loss summed over a batch, and what it is to be divided by."""

    def loss(self, scores: Scores, batch: Batch[torch.Tensor]) -> torch.Tensor:
        """The sum over this rank's part of the batch, a scalar."""

    def terms(self, positives: int) -> int:
        """Terms of the sum over all ranks, when they have this many positives together."""


class BinaryObjective:
    """Binary cross-entropy of positives and their own negatives.

    Args:
        negatives: of each positive.
        item_offsets: ``[n_items]``, subtracted from the training logits of an item's pairs; never
            from what is validated.
    """

    def __init__(self, negatives: int, item_offsets: torch.Tensor | None = None) -> None:
        self.negatives, self.item_offsets = negatives, item_offsets

    def loss(self, scores: Scores, batch: Batch[torch.Tensor]) -> torch.Tensor:
        """See `Objective`."""
        assert batch.pattern is not None
        at_pairs = scores.candidates
        if self.item_offsets is not None:
            at_pairs = at_pairs - self.item_offsets[batch.items][batch.pattern.col]
        return binary_cross_entropy(at_pairs, self.negatives, batch.real)

    def terms(self, positives: int) -> int:
        """Pairs."""
        return positives * (1 + self.negatives)


class SoftmaxObjective:
    """Cross-entropy of positives among candidates.

    Args:
        temperature: scores are divided by it.
        item_offsets: ``[n_items]``, subtracted from the training logits of an item.
    """

    def __init__(self, temperature: float, item_offsets: torch.Tensor | None = None) -> None:
        self.temperature, self.item_offsets = temperature, item_offsets

    def loss(self, scores: Scores, batch: Batch[torch.Tensor]) -> torch.Tensor:
        """See `Objective`."""
        assert batch.labels is not None
        if self.item_offsets is not None:
            # Of the logits, not of the scores: the temperature does not scale it.
            offsets = self.temperature * self.item_offsets[batch.items]
            candidates = offsets if batch.negatives is None else offsets[batch.negatives]
            own = None if scores.own is None else scores.own - offsets[batch.labels]
            scores = Scores(scores.candidates - candidates, own)
        if scores.own is None:
            return softmax_cross_entropy(
                scores.candidates,
                batch.labels,
                self.temperature,
                batch.masked,
                batch.outside,
                batch.real,
            )
        assert batch.repeated is not None
        return sampled_cross_entropy(
            scores.candidates,
            scores.own,
            batch.repeated,
            self.temperature,
            batch.masked,
            batch.outside,
            batch.real,
        )

    def terms(self, positives: int) -> int:
        """Positives."""
        return positives


def make_objective(config: TrainConfig, item_offsets: torch.Tensor | None = None) -> Objective:
    """The loss that `config` names."""
    if config.loss == "binary":
        return BinaryObjective(config.negatives, item_offsets)
    return SoftmaxObjective(config.temperature, item_offsets)


def binary_cross_entropy(
    scores: torch.Tensor, negatives: int, real: torch.Tensor | None = None
) -> torch.Tensor:
    """Summed binary cross-entropy of positives and their sampled negatives.

    The sum, not the mean: only the caller knows how many pairs the whole step has over all ranks.

    Args:
        scores: ``[B * (1 + K)]`` logits, each positive followed by its K negatives.
        negatives: K.
        real: bool ``[B]``, the positives that count; None is all.
    """
    by_positive = scores.view(-1, 1 + negatives)
    if real is not None:
        losses = F.softplus(-by_positive[:, 0]) + F.softplus(by_positive[:, 1:]).sum(1)
        return losses.masked_fill(~real, 0.0).sum()
    return F.softplus(-by_positive[:, 0]).sum() + F.softplus(by_positive[:, 1:]).sum()


def softmax_cross_entropy(
    scores: torch.Tensor,
    labels: torch.Tensor,
    temperature: float = 1.0,
    masked: torch.Tensor | None = None,
    outside: torch.Tensor | None = None,
    real: torch.Tensor | None = None,
) -> torch.Tensor:
    """Summed cross-entropy of each row's positive among its candidates.

    Args:
        scores: ``[n, m]``.
        labels: int64 ``[n]``, the positive's column.
        temperature: the scores are divided by it.
        masked: int64 ``[2, k]``, rows and columns that are no candidates; no row's positive.
        outside: bool ``[n or 1, m]``, the same as a matrix.
        real: bool ``[n]``, the rows that count; None is all.
    """
    if not len(scores):
        return scores.sum()  # a rank that ran out of rows still takes part in the step
    logits = scores / temperature if temperature != 1 else scores
    if masked is not None:
        lowest = logits.new_full((), -torch.inf)
        logits = logits.index_put((masked[0], masked[1]), lowest)
    if outside is not None:
        logits = logits.masked_fill(outside, -torch.inf)
    if real is not None:
        return F.cross_entropy(logits, labels, reduction="none").masked_fill(~real, 0.0).sum()
    return F.cross_entropy(logits, labels, reduction="sum")


def sampled_cross_entropy(
    scores: torch.Tensor,
    own: torch.Tensor,
    repeated: torch.Tensor,
    temperature: float = 1.0,
    masked: torch.Tensor | None = None,
    outside: torch.Tensor | None = None,
    real: torch.Tensor | None = None,
) -> torch.Tensor:
    """Summed cross-entropy of each row's positive among negatives that all rows share.

    Args:
        scores: ``[n, k]``, at the negatives.
        own: ``[n]``, at each row's positive.
        repeated: bool ``[n]``, the positive is one of the negatives, too; it counts once.
        temperature: the scores are divided by it.
        masked: int64 ``[2, m]``, rows and columns that are no candidates; no row's positive.
        outside: bool ``[n or 1, k]``, the same as a matrix.
        real: bool ``[n]``, the rows that count; None is all.
    """
    if temperature != 1:
        scores, own = scores / temperature, own / temperature
    total: torch.Tensor = _SampledCrossEntropy.apply(scores, own, repeated, masked, outside, real)
    return total


@functools.cache
def _nowhere(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The logit of what is no candidate, made once."""
    return torch.full((), -torch.inf, dtype=dtype, device=device)


class _SampledCrossEntropy(torch.autograd.Function):
    """Its gradients are the probabilities, so one array of them is all that the backward makes."""

    @staticmethod
    def forward(
        ctx: Any,
        scores: torch.Tensor,
        own: torch.Tensor,
        repeated: torch.Tensor,
        masked: torch.Tensor | None,
        outside: torch.Tensor | None,
        real: torch.Tensor | None,
    ) -> torch.Tensor:
        if masked is not None:
            scores = scores.index_put((masked[0], masked[1]), _nowhere(scores.dtype, scores.device))
        if outside is not None:
            scores = scores.masked_fill(outside, -torch.inf)
        once = own.masked_fill(repeated, -torch.inf)
        logarithm = torch.logaddexp(scores.logsumexp(1), once)
        ctx.save_for_backward(scores, once, logarithm, real)
        losses = logarithm - own
        return (losses if real is None else losses * real).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scores, once, logarithm, real = ctx.saved_tensors
        of_sum = gradients[0] if real is None else gradients[0] * real
        of_row = of_sum if real is None else of_sum[:, None]
        of_scores = (scores - logarithm[:, None]).exp_().mul_(of_row)
        of_own = (once - logarithm).expm1_().mul_(of_sum)
        return of_scores, of_own, None, None, None, None


def logq_offsets(counts: torch.Tensor) -> torch.Tensor:
    """What LogQ subtracts from a training logit: log of the item's frequency over the mean one.

    ``log((c_i + 1) / mean(c + 1))`` for counts c in D_sel. The one more keeps an item that was not
    drawn finite. Yi et al. 2019 subtract log q_i itself; dividing by the mean moves all logits by
    one constant, which a softmax does not see, and which binary cross-entropy without a bias would
    make the towers learn first.

    Args:
        counts: ``[n_items]``, interactions of each item in D_sel, over all ranks.
    """
    smoothed = counts.float() + 1.0
    return (smoothed / smoothed.mean()).log()


def mixed_offsets(counts: NDArray[np.int64], steps: int, negatives: int) -> torch.Tensor:
    """What LogQ subtracts where a step's candidates are its positives and uniform items.

    log q_i, with q_i the number of times that item i is expected among the different candidates of
    a step; each counts once, so it is a probability: one less that of ``absent``, that neither a
    row of the step nor a draw is i.

    Args:
        counts: ``[n_items]``, of the rows that the step's are taken from: this rank's.
        steps: of an epoch, which deal these rows out as evenly as they can.
        negatives: uniform draws of a step, with repetition.

    Returns:
        float32 ``[n_items]``.
    """
    rows = int(counts.sum())
    smaller, larger = divmod(rows, steps)  # so many steps have one row more than the others
    absent = np.zeros(len(counts))
    for size, share in ((smaller, 1 - larger / steps), (smaller + 1, larger / steps)):
        if share:
            absent += share * _none_of(counts, rows, size)
    absent *= (1 - 1 / len(counts)) ** negatives
    return torch.from_numpy(np.log1p(-absent)).float()


def _none_of(counts: NDArray[np.int64], rows: int, size: int) -> NDArray[np.float64]:
    """Chance that `size` of `rows` rows, without repetition, are none of each item's `counts`."""
    left = rows - counts - size  # below 0, one of them must be among so many
    logarithm = gammaln(rows - counts + 1) - gammaln(np.maximum(left, 0) + 1)
    logarithm -= gammaln(rows + 1) - gammaln(rows - size + 1)
    return np.where(left < 0, 0.0, np.exp(logarithm))
