"""The one place that defines the vectors of users and items.

In: rows of the id tables, pooled attributes, and the vectors of a history, however they were looked
up. Out: `Vectors`, in parts; the score of a user and an item is the sum of the parts' dot products.

Training scores pairs part by part, since only the learned part has a gradient (`scores`). All
others join the parts to one vector (`Vectors.joined`); the dot product of two such vectors is the
score. Training, evaluation, exported programs, TorchRec modules, planning and updates all use this
file.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from cadc_rec.data.load.batches import Batch, PairPattern
from cadc_rec.models.history import History, HistoryReader, by_length
from cadc_rec.models.prior import HistoryPrior
from cadc_rec.models.rows import TensorRows
from cadc_rec.models.shared import shared_scores
from cadc_rec.models.sparse import pair_scores

if TYPE_CHECKING:  # it needs TorchRec, which tables alone are scored without
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

    def of(self, rows: slice) -> Vectors:
        """Those of some rows."""
        learned, residual = (None if p is None else p[rows] for p in (self.learned, self.residual))
        return Vectors(learned, residual, tuple(part[rows] for part in self.prior))


@dataclass(frozen=True)
class Scores:
    """Scores of a batch, or one of the parts that they are the sum of.

    Attributes:
        candidates: ``[pairs]``; without pairs ``[rows, candidates]``.
        own: ``[rows]``, of each row's positive, where the candidates are negatives; else None.
    """

    candidates: torch.Tensor
    own: torch.Tensor | None = None

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Scores:
        """The same with `change` applied to both."""
        return Scores(change(self.candidates), None if self.own is None else change(self.own))


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
    # Not len(rows), which torch.export takes for a constant.
    present = rows.new_zeros(rows.shape[0], 1) if absent else None
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
    batch: Batch[torch.Tensor],
    known: Sequence[Scores] = (),
) -> Scores:
    """Scores of a batch with towers.

    Gradients flow to the learned parts and to the factors; nothing is computed for the others.

    Args:
        users: of the batch, in parts.
        items: likewise.
        factors: of each of the prior's scores, then of those in `known`; None without a prior.
        batch: which pairs, or which candidates of every row.
        known: further scores; with pairs those of every user and item.
    """
    among = [each.candidates for each in known]
    if batch.pattern is not None:
        pattern = batch.pattern
        at_pairs = [_at_pairs(each, pattern) for each in among]
        products = functools.partial(pair_scores, pattern=pattern)
        return Scores(_sum(users, items, factors, at_pairs, products))
    if batch.negatives is None:
        return Scores(_sum(users, items, factors, among, _every_pair))
    assert batch.labels is not None
    assert users.learned is not None
    residual = [] if users.residual is None else [users.residual]
    scaled = len(users.prior)
    shared, own = shared_scores(
        users.learned,
        items.joined(),
        batch.negatives,
        batch.labels,
        [*residual, *users.prior],
        factors[:scaled] if factors is not None and known else factors,
    )
    for place, each in enumerate(known, start=scaled):
        assert factors is not None
        assert each.own is not None
        shared = torch.addcmul(shared, factors[place], each.candidates)
        own = torch.addcmul(own, factors[place], each.own)
    return Scores(shared, own)


def _sum(
    users: Vectors,
    items: Vectors,
    factors: torch.Tensor | None,
    known: Sequence[torch.Tensor],
    products: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Sum of all parts' `products` and of what is `known`, with their factors."""
    assert users.learned is not None
    assert items.learned is not None
    total = products(users.learned, items.learned)
    if users.residual is not None:
        assert items.residual is not None
        total = total + products(users.residual, items.residual)
    if factors is not None:
        of_prior = (products(*each) for each in zip(users.prior, items.prior, strict=True))
        for factor, part in zip(factors, itertools.chain(of_prior, known), strict=True):
            # Multiply the products by the factor, so that the vectors need no gradient.
            total = torch.addcmul(total.float(), factor, part.float())
    return total


def _every_pair(users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """Dot products ``[users, items]``."""
    return users @ items.t()


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
        """Vectors of any number of histories ``[n, L]``, a chunk of about equal lengths at a time.

        Equal to `forward`'s but for rounding: places that no history of a chunk fills are left out.
        """
        pieces, places = list[History](), list[torch.Tensor]()
        for rows, of_class in by_length(history):
            pieces += [self._read(chunk) for chunk in of_class.split(_CHUNK)]
            places.append(rows)
        if not pieces:
            return user_vectors(None, None, None, self._read(history))
        back = torch.cat(places).argsort()
        joined = History.joined(pieces).each(lambda part: part[back])
        return user_vectors(None, None, None, joined)

    def every_item(self) -> Vectors:
        """Vectors of all items."""
        return item_vectors(None, self.items.weight, None, self.targets, with_prior=True)

    def _read(self, history: torch.Tensor) -> History:
        return self.reader.read(history, self.items, self.sources)
