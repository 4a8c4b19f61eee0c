"""What gives every user a score of every item, however it was learned: vectors, and lists on top.

Ranking needs nothing else of a model: towers, tables with histories and plain vectors are all the
same to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from cadc_rec.data.context import RequestContext
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.user_items import UserItems
from cadc_rec.distributed.processes import Processes
from cadc_rec.evaluation.on_top import LastItems, OnTop, own_share
from cadc_rec.evaluation.sharded import ranks_by_share, tower_vectors
from cadc_rec.pretrain.id_tables import IdTables
from cadc_rec.pretrain.likeness import Likeness
from cadc_rec.pretrain.tables_alone import TablesAlone
from cadc_rec.training.build import ShardedTwoTower

UserVectors: TypeAlias = Callable[[bool, np.ndarray | None], torch.Tensor]
"""Given whether the validation item is known by then, and rows of users or None for all: vectors
of this rank's share of these users."""

_CHUNK = 4_096  # new items at once


@dataclass(frozen=True)
class Scoring:
    """Vectors whose dot product is a score, and what is added to it.

    Attributes:
        users: vectors of this rank's users.
        items: ``[n_items, d]``, on every rank.
        on_top: scores that are no dot products.
        by_context: whether a user's vector depends on the context of the request.
        model: the towers; None where tables alone score.
    """

    users: UserVectors
    items: torch.Tensor
    on_top: OnTop = field(default_factory=OnTop)
    by_context: bool = False
    model: ShardedTwoTower | None = None

    def new_items(self, likeness: Likeness, processes: Processes) -> torch.Tensor:
        """Vectors ``[new, d]`` of items behind those of the tables, on every rank.

        Towers, which must have been given these items' attributes, give the learned part. All else
        of a vector is linear in an item's rows: it is that of the items most like it.
        """
        if self.model is None:
            return likeness.of_vectors(self.items)
        learned = _learned_of_new_items(self.model, likeness.new, processes)
        return torch.cat([learned, likeness.of_vectors(self.items[:, learned.shape[1] :])], 1)

    def validation_ranks(
        self, dataset: Dataset, sample: NDArray[np.int64] | None, processes: Processes
    ) -> NDArray[np.int64]:
        """Ranks of the validation items there are; int64, of `sample` or of all, on every rank."""
        targets = np.asarray(dataset.val_item)
        excluded = UserItems(dataset.user_indptr, dataset.train_item)
        if sample is not None:
            targets, excluded = targets[sample], excluded.some(sample)
        mine = own_share(sample, dataset.n_users, processes)
        listed, order = self.on_top.of_users(dataset, mine, with_validation=False)
        users = self.users(False, sample)
        ranks = ranks_by_share(
            users, self.items, targets, excluded, processes, listed=listed, order=order
        )
        return ranks[targets >= 0]


def of_towers(
    model: ShardedTwoTower, known: LastItems, context: RequestContext | None = None
) -> Scoring:
    """Of a model as it is now.

    Args:
        model: its tables are looked up by all ranks together.
        known: histories, of length 0 where the model reads none.
        context: of the requests, where the model reads any.
    """

    def users(with_validation: bool, sample: np.ndarray | None) -> torch.Tensor:
        history = known(with_validation) if known.length else None
        asked = None
        if context is not None:
            asked = context.test if with_validation else context.validation
        return model.user_vectors(history, sample, asked)

    on_top = OnTop(model.listed(known.length), model.recent(), known)
    return Scoring(users, model.item_vectors(), on_top, context is not None, model)


@torch.no_grad()
def _learned_of_new_items(model: ShardedTwoTower, new: int, processes: Processes) -> torch.Tensor:
    """What the item tower says of attributes, float32 ``[new, tower[-1]]``."""
    model.wrapped.eval()
    module, tables = model.module, [model.module.item.ids.rows]
    tables += [] if module.targets is None else [module.targets.rows]
    # A sharded table answers only when all ranks ask.
    sums = [tower_vectors(rows, model.n_items, processes).double().sum(0) for rows in tables]
    row = (processes.all_reduce_sum(torch.cat(sums)) / model.n_items).float()
    ids = torch.arange(model.n_items, model.n_items + new, device=processes.device)
    absent = module.absence is not None
    return torch.cat([module.new_items(part, row, absent=absent) for part in ids.split(_CHUNK)])


def of_tables(tables: TablesAlone, known: LastItems, processes: Processes) -> Scoring:
    """Of what tables alone say of histories."""

    def users(with_validation: bool, sample: np.ndarray | None) -> torch.Tensor:
        mine = own_share(sample, known.dataset.n_users, processes)
        return tables.user_vectors(known(with_validation)[mine]).to(processes.device)

    on_top = OnTop(tables.listed(known.length), tables.recent(), known)
    return Scoring(users, tables.item_vectors().to(processes.device), on_top)


def of_vectors(ids: IdTables, dataset: Dataset, processes: Processes) -> Scoring:
    """Of pre-trained vectors themselves."""

    def vectors(mine: slice | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return replace(ids, user=ids.user[mine]).as_dot_products()

    def users(_: bool, sample: np.ndarray | None) -> torch.Tensor:
        mine = own_share(sample, dataset.n_users, processes)
        return vectors(mine)[0].to(processes.device)

    return Scoring(users, vectors(slice(0, 0))[1].to(processes.device))
