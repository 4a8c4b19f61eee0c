"""The one place that defines the vectors of users and items.

In: rows of the id tables, pooled attributes, and the vectors of a history, however they were looked
up. Out: `Vectors`, in parts; the score of a user and an item is the sum of the parts' dot products.

Training scores pairs part by part, since only the learned part has a gradient (`scores`). All
others join the parts to one vector (`Vectors.joined`); the dot product of two such vectors is the
score. Training, evaluation, exported programs, TorchRec modules, planning and updates all use this
file.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from cadc_rec.data.load.batches import PairPattern
from cadc_rec.models.history import History, HistoryReader
from cadc_rec.models.prior import HistoryPrior
from cadc_rec.models.rows import TensorRows
from cadc_rec.models.sparse import pair_scores, products_at
from cadc_rec.models.tower import Tower

_CHUNK = 1024  # histories at once: each looks dozens of rows up


@dataclass(frozen=True)
class Vectors:
    """Vectors of n users, or of n items, in parts.

    Attributes:
        learned: ``[n, tower[-1]]``, of the tower; None without towers.
        residual: ``[n, factors + 2]``, the factorization's own; None without it.
        prior: ``[n, some]`` for each of the prior's scores; none without a prior. Unscaled: its
            factors belong to the score, and are put on the user's side where parts are joined.
    """

    learned: torch.Tensor | None = None
    residual: torch.Tensor | None = None
    prior: tuple[torch.Tensor, ...] = ()

    def joined(self, factors: Sequence[float] | torch.Tensor | None = None) -> torch.Tensor:
        """One vector ``[n, d]`` each, in this order: learned, residual, prior.

        Args:
            factors: of the prior's scores, on the user's side; None leaves them out.
        """
        prior = list(self.prior)
        if factors is not None:
            prior = [factors[place] * part for place, part in enumerate(prior)]
        parts = [part for part in (self.learned, self.residual, *prior) if part is not None]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def side_vectors(
    tower: Tower | None,
    rows: torch.Tensor | None,
    features: torch.Tensor | None,
    context: Sequence[torch.Tensor],
    prior: Sequence[torch.Tensor],
    present: torch.Tensor | None = None,
) -> Vectors:
    """Vectors of ids of either side.

    Args:
        tower: the side's layers; None is a model without towers.
        rows: ``[n, id_dim]``, of the id tables side by side; read by towers alone.
        features: ``[n, width]``, of the pooled attributes; None without any.
        context: further frozen rows that the tower reads, each ``[n, some]``.
        prior: this side of each of the prior's scores, each ``[n, some]``.
        present: ``[n, 1]``, 0 where the tower is not given the id's part; None gives it of all.
    """
    if tower is None:
        return Vectors(prior=tuple(prior))
    assert rows is not None
    learned, residual = tower(rows, features, context, present)
    return Vectors(learned, residual, tuple(prior))


def user_vectors(
    tower: Tower | None,
    rows: torch.Tensor | None,
    features: torch.Tensor | None,
    history: History | None,
    present: torch.Tensor | None = None,
) -> Vectors:
    """Vectors of users, from their rows, attributes and histories; see `side_vectors`."""
    if history is None:
        return side_vectors(tower, rows, features, [], [], present)
    return side_vectors(tower, rows, features, history.context(), history.prior(), present)


def item_vectors(
    tower: Tower | None,
    rows: torch.Tensor,
    features: torch.Tensor | None,
    targets: torch.Tensor | None,
    with_prior: bool,
    present: torch.Tensor | None = None,
) -> Vectors:
    """Vectors of items, from their rows, attributes and target vectors.

    Args:
        tower: the items' layers; None is a model without towers.
        rows: ``[n, id_dim]``, of the id tables side by side.
        features: ``[n, width]``, of the pooled attributes.
        targets: ``[n, e]``, the items as what came after; None without transitions.
        with_prior: whether there is a prior; it scores by the rows of all of them.
        present: see `side_vectors`.
    """
    context = [] if targets is None else [targets]
    frozen = rows if tower is None else rows[:, : tower.ids.width]
    prior = item_prior(frozen, targets) if with_prior else []
    return side_vectors(tower, rows, features, context, prior, present)


def new_item_vectors(
    tower: Tower, rows: torch.Tensor, features: torch.Tensor | None, absent: bool
) -> torch.Tensor:
    """The learned part of the vectors of items that no table has a row of.

    Args:
        tower: the items' layers.
        rows: ``[n, id_dim + e]``, what stands for their rows: of the id tables, then as targets.
        features: ``[n, width]``, of the pooled attributes.
        absent: whether nothing stands for them, as in training with ``model.cold_dropout``.
    """
    present = rows.new_zeros(len(rows), 1) if absent else None
    own, targets = rows[:, : tower.id_dim], rows[:, tower.id_dim :]
    context = [targets] if targets.shape[1] else []
    learned = side_vectors(tower, own, features, context, [], present).learned
    assert learned is not None
    return learned


def item_prior(frozen: torch.Tensor, targets: torch.Tensor | None) -> list[torch.Tensor]:
    """The item's side of each of the prior's scores: the frozen row, and the row as a target."""
    return [frozen] if targets is None else [frozen, targets]


def scores(
    users: Vectors,
    items: Vectors,
    factors: torch.Tensor | None,
    pattern: PairPattern[torch.Tensor] | None,
    known: Sequence[torch.Tensor] = (),
) -> torch.Tensor:
    """Scores of a batch with towers: ``[pairs]``, or ``[users, items]`` without a pattern.

    Gradients flow to the learned parts and to the factors; nothing is computed for the others.

    Args:
        users: of the batch, in parts.
        items: likewise.
        factors: of each of the prior's scores, then of those in `known`; None without a prior.
        pattern: the pairs.
        known: further scores, each ``[users, items]``.
    """
    assert users.learned is not None
    assert items.learned is not None

    def products(mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        if pattern is None:
            return mine @ theirs.t()
        return products_at(pattern.crow, pattern.col, mine, theirs)

    if pattern is None:
        total = users.learned @ items.learned.t()
    else:
        total = pair_scores(users.learned, items.learned, pattern)
    if users.residual is not None:
        assert items.residual is not None
        total = total + products(users.residual, items.residual)
    if factors is not None:
        of_prior = (products(*each) for each in zip(users.prior, items.prior, strict=True))
        others = (each if pattern is None else _at_pairs(each, pattern) for each in known)
        for factor, part in zip(factors, itertools.chain(of_prior, others), strict=True):
            # Multiply the products by the factor, so that the vectors need no gradient.
            total = torch.addcmul(total.float(), factor, part.float())
    return total


def _at_pairs(scores: torch.Tensor, pattern: PairPattern[torch.Tensor]) -> torch.Tensor:
    """Those ``[pairs]`` of all users and items ``[n_u, n_i]``."""
    users = torch.arange(len(scores), device=scores.device)
    row = users.repeat_interleave(pattern.crow.diff().long(), output_size=len(pattern.col))
    return scores[row, pattern.col.long()]


class PriorAlone(nn.Module):
    """A model without towers: a history's vector is the prior's.

    Args:
        prior: the prior of the item table.
        factors: factors of its scores.
        items: ``[n_items, dim]``, the frozen table.
        sources: ``[n_items, e]``, items as what came before; None without transitions.
        targets: ``[n_items, e]``, items as what came after; None without transitions.
    """

    def __init__(
        self,
        prior: HistoryPrior,
        factors: Sequence[float],
        items: torch.Tensor,
        sources: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.reader, self.factors = HistoryReader(prior=prior), list(factors)
        self.items = TensorRows(items)
        self.sources = None if sources is None else TensorRows(sources)
        self.targets = targets

    def forward(self, history: torch.Tensor) -> torch.Tensor:
        """``[n, d]`` of integer ``[n, L]``, the latest first, -1 where they have ended."""
        return user_vectors(None, None, None, self._read(history)).joined(self.factors)

    def users(self, history: torch.Tensor) -> Vectors:
        """Vectors of any number of histories ``[n, L]``, a chunk at a time."""
        pieces = [self._read(chunk) for chunk in history.split(_CHUNK)]
        return user_vectors(None, None, None, History.joined(pieces))

    def every_item(self) -> Vectors:
        """Vectors of all items."""
        return item_vectors(None, self.items.weight, None, self.targets, with_prior=True)

    def _read(self, history: torch.Tensor) -> History:
        return self.reader.read(history, self.items, self.sources)
