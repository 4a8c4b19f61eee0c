"""Vectors of items that no table has a row of, by the model as it stands in training's processes.

A bundle gives the same by its programs (`cadc_rec.export.new_items`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cadc_rec.data.content import Content
from cadc_rec.data.dense import DenseAttribute, side_by_side
from cadc_rec.distributed.processes import Processes
from cadc_rec.evaluation.sharded import tower_vectors
from cadc_rec.pretrain.likeness import USERS, Likeness, gain, moved, reach
from cadc_rec.training.build import ShardedTwoTower
from cadc_rec.training.scoring import Scoring

_CHUNK = 4_096  # new items at once


def new_item_vectors(
    scoring: Scoring,
    known: torch.Tensor,
    content: Content,
    dense: Sequence[DenseAttribute],
    users: torch.Tensor,
    processes: Processes,
) -> torch.Tensor:
    """Vectors ``[new, d]`` of items behind those of the tables, on every rank.

    Args:
        scoring: of the known items; its towers must have been given the new ones' attributes.
        known: vectors ``[n, d]`` of all known items.
        content: of the known items and then of the new ones.
        dense: their vectors and numbers, likewise, as the towers read them.
        users: vectors of this rank's users.
        processes: the ranks.
    """
    of_known = content.part(slice(0, len(known)))
    rows, others = Likeness.of_known(of_known)
    pretended = _of_attributes(scoring, known, rows, dense, others, processes)
    some = users[: -(-USERS // processes.world_size)]
    items = known[torch.from_numpy(rows).to(known.device)]
    reached = torch.stack([reach(some @ each.t()) for each in (items, pretended)])
    by = gain(*processes.all_reduce_sum(reached).tolist())
    ids = np.arange(len(known), len(content))
    likeness = Likeness.of(of_known, content.part(slice(len(known), None)))
    return moved(_of_attributes(scoring, known, ids, dense, likeness, processes), known, by)


def _of_attributes(
    scoring: Scoring,
    known: torch.Tensor,
    ids: np.ndarray,
    dense: Sequence[DenseAttribute],
    likeness: Likeness,
    processes: Processes,
) -> torch.Tensor:
    """Vectors ``[n, d]``: the learned part of the towers, all else of the items that are alike."""
    if scoring.model is None:
        return likeness.of_vectors(known)
    learned = _learned(scoring.model, ids, dense, processes)
    return torch.cat([learned, likeness.of_vectors(known[:, learned.shape[1] :])], 1)


@torch.no_grad()
def _learned(
    model: ShardedTwoTower, ids: np.ndarray, dense: Sequence[DenseAttribute], processes: Processes
) -> torch.Tensor:
    """What the item tower says of attributes, float32 ``[n, tower[-1]]``."""
    model.wrapped.eval()
    module, tables = model.module, [model.module.item.ids.rows]
    tables += [] if module.targets is None else [module.targets.rows]
    # A sharded table answers only when all ranks ask.
    sums = [tower_vectors(rows, model.n_items, processes).double().sum(0) for rows in tables]
    row = (processes.all_reduce_sum(torch.cat(sums)) / model.n_items).float()
    parts = []
    for some in np.split(ids, range(_CHUNK, len(ids), _CHUNK)):
        numbers = side_by_side(dense, some)
        of_some = None if numbers is None else torch.from_numpy(numbers).to(processes.device)
        parts.append(module.new_items(torch.from_numpy(some).to(processes.device), row, of_some))
    return torch.cat(parts)
