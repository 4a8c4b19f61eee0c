"""What a step minimizes: from scores to a summed loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from cadc_rec.config.experiment import TrainConfig
from cadc_rec.data.load.batches import Arrangement, Batch, Negatives
from cadc_rec.data.load.candidates import SoftmaxBatches
from cadc_rec.data.load.loader import Loader
from cadc_rec.data.load.pair_batches import PairBatches, worth_compiling
from cadc_rec.data.load.shards import Examples
from cadc_rec.data.user_items import UserItems
from cadc_rec.models.losses import binary_cross_entropy, softmax_cross_entropy


class Objective(Protocol):
    """A loss summed over a batch, and what it is to be divided by."""

    def loss(self, scores: torch.Tensor, batch: Batch[torch.Tensor]) -> torch.Tensor:
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

    def loss(self, scores: torch.Tensor, batch: Batch[torch.Tensor]) -> torch.Tensor:
        """See `Objective`."""
        assert batch.pattern is not None
        if self.item_offsets is not None:
            scores = scores - self.item_offsets[batch.items][batch.pattern.col]
        return binary_cross_entropy(scores, self.negatives)

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

    def loss(self, scores: torch.Tensor, batch: Batch[torch.Tensor]) -> torch.Tensor:
        """See `Objective`."""
        assert batch.labels is not None
        if self.item_offsets is not None:
            # Of the logits, not of the scores: the temperature does not scale it.
            scores = scores - self.temperature * self.item_offsets[batch.items]
        return softmax_cross_entropy(
            scores, batch.labels, batch.negative, self.temperature, batch.masked
        )

    def terms(self, positives: int) -> int:
        """Positives."""
        return positives


def make_objective(config: TrainConfig, item_offsets: torch.Tensor | None = None) -> Objective:
    """The loss that `config` names."""
    if config.loss == "binary":
        return BinaryObjective(config.negatives, item_offsets)
    return SoftmaxObjective(config.temperature, item_offsets)


def make_loader(
    config: TrainConfig,
    examples: Examples,
    rows_by_rank: Sequence[int],
    rank: int,
    n_items: int,
    seed: int,
    known: UserItems | None = None,
    rows_by_shard: Sequence[int] | None = None,
    draws: Negatives | None = None,
) -> Loader:
    """The loader that `config`'s loss needs; see `cadc_rec.data.load.loader`.

    Args:
        config: loss, batch size, negatives.
        examples: this rank's rows.
        rows_by_rank: number of rows of every rank.
        rank: this rank.
        n_items: items there are.
        seed: of order and negatives.
        known: what each user took in training; needed by ``exclude_known``.
        rows_by_shard: number of rows of every shard, see `Loader`.
        draws: what negatives are drawn from; None is all items alike.
    """
    positives = min(config.batch_size, sum(rows_by_rank))
    arrange = make_arrangement(
        config,
        n_items,
        positives,
        examples.history is not None,
        known,
        draws,
        compiles(config, len(examples)),
    )
    return Loader(examples, rows_by_rank, rank, config.batch_size, seed, arrange, rows_by_shard)


def make_arrangement(
    config: TrainConfig,
    n_items: int,
    positives: int,
    by_example: bool = False,
    known: UserItems | None = None,
    draws: Negatives | None = None,
    compiled: bool = False,
) -> Arrangement:
    """How rows become a step under `config`'s loss.

    Args:
        config: loss and negatives.
        n_items: items there are.
        positives: of a step over all ranks.
        by_example: each row has a history of its own.
        known: what each user took in training; needed by a softmax with ``exclude_known``.
        draws: what negatives are drawn from; None is all items alike.
        compiled: see `PairBatches`.
    """
    if config.loss == "binary":
        return PairBatches(config.negatives, n_items, by_example, positives, draws, compiled)
    masked = known if config.exclude_known else None
    if config.loss == "softmax":
        return SoftmaxBatches("all", n_items, known=masked)
    if config.loss == "in-batch-softmax":
        return SoftmaxBatches("in-batch", n_items, known=masked)
    return SoftmaxBatches("sampled", n_items, config.shared_negatives, masked, draws)


def compiles(config: TrainConfig, rows: int) -> bool:
    """Whether a rank with this many rows lays its pairs out by compiled loops, to the same bits."""
    pairs = rows * config.epochs * (1 + config.negatives)
    return config.loss == "binary" and worth_compiling(pairs)
