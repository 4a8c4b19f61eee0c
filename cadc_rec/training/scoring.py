"""What gives every user a score of every item, however it was learned: vectors, and lists on top.

Ranking needs nothing else of a model: towers, tables with histories and plain vectors are all the
same to it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from cadc_rec.data.context import RequestContext
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.user_items import UserItems
from cadc_rec.distributed.processes import Processes
from cadc_rec.evaluation.on_top import KeptScores, LastItems, OnTop, own_share
from cadc_rec.evaluation.sharded import ranks_by_share
from cadc_rec.pretrain.id_tables import IdTables
from cadc_rec.pretrain.tables_alone import TablesAlone
from cadc_rec.training.kept_reads import KeptReads

if TYPE_CHECKING:  # tables alone are scored without what trains towers, which takes time to load
    from cadc_rec.training.build import ShardedTwoTower

MOST_KEPT = 2**28
"""Bytes; dense scores of 6,000 users at 4,000 items take less."""
UserVectors: TypeAlias = Callable[[bool, np.ndarray | None], torch.Tensor]
"""Given whether the validation item is known by then, and rows of users or None for all: vectors
of this rank's share of these users."""


@dataclass(frozen=True)
class Scoring:
    """Vectors whose dot product is a score, and what is added to it.

    Attributes:
        users: vectors of this rank's users.
        items: ``[share, d]`` of this rank's share of the items.
        on_top: scores that are no dot products.
        by_context: whether a user's vector depends on the context of the request.
        model: the towers; None where tables alone score.
    """

    users: UserVectors
    items: torch.Tensor
    on_top: OnTop = field(default_factory=OnTop)
    by_context: bool = False
    model: ShardedTwoTower | None = None

    def validation_ranks(
        self, dataset: Dataset, sample: NDArray[np.int64] | None, processes: Processes
    ) -> NDArray[np.int64]:
        """Ranks of the validation items there are; int64, of `sample` or of all, on every rank."""
        targets = np.asarray(dataset.val_item)
        excluded = UserItems(dataset.user_indptr, dataset.train_item)
        if sample is not None:
            targets, excluded = targets[sample], excluded.some(sample)
        items = processes.share(dataset.n_items)
        listed, order = self.on_top.of_users(dataset, sample, False, items)
        users, n = self.users(False, sample), dataset.n_items
        ranks = ranks_by_share(
            users, self.items, targets, excluded, processes, n, listed=listed, order=order
        )
        return ranks[targets >= 0]


class Kept:
    """What is kept from one ranking of the same users, before the same items, to the next.

    Args:
        limit_bytes: what each of both may take, up to `MOST_KEPT`; the same on all ranks.
    """

    def __init__(self, limit_bytes: int) -> None:
        most = min(limit_bytes, MOST_KEPT)
        self.scores, self.reads = KeptScores(most), KeptReads(most)


def of_towers(
    model: ShardedTwoTower,
    known: LastItems,
    context: RequestContext | None = None,
    kept: Kept | None = None,
) -> Scoring:
    """Of a model as it is now.

    Args:
        model: its tables are looked up by all ranks together.
        known: histories, of length 0 where the model reads none.
        context: of the requests, where the model reads any.
        kept: from an earlier ranking; None keeps nothing.
    """
    scores, reads = (None, None) if kept is None else (kept.scores, kept.reads)

    def users(with_validation: bool, sample: np.ndarray | None) -> torch.Tensor:
        history = functools.partial(known, with_validation) if known.length else None
        asked = None
        if context is not None:
            asked = context.test if with_validation else context.validation
        return model.user_vectors(history, sample, asked, reads)

    on_top = OnTop(model.listed(known.length), model.recent(), known, scores)
    return Scoring(users, model.item_vectors(), on_top, context is not None, model)


def of_tables(tables: TablesAlone, known: LastItems, processes: Processes) -> Scoring:
    """Of what tables alone say of histories."""

    def users(with_validation: bool, sample: np.ndarray | None) -> torch.Tensor:
        mine = own_share(sample, known.dataset.n_users, processes)
        return tables.user_vectors(known(with_validation, mine)).to(processes.device)

    on_top = OnTop(tables.listed(known.length), tables.recent(), known)
    share = processes.share(known.dataset.n_items)
    items = tables.item_vectors()[share.start : share.stop]
    return Scoring(users, items.to(processes.device), on_top)


def of_vectors(ids: IdTables, dataset: Dataset, processes: Processes) -> Scoring:
    """Of pre-trained vectors themselves."""

    def vectors(mine: slice | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return replace(ids, user=ids.user[mine]).as_dot_products()

    def users(_: bool, sample: np.ndarray | None) -> torch.Tensor:
        mine = own_share(sample, dataset.n_users, processes)
        return vectors(mine)[0].to(processes.device)

    share = processes.share(dataset.n_items)
    items = vectors(slice(0, 0))[1][share.start : share.stop]
    return Scoring(users, items.to(processes.device))
