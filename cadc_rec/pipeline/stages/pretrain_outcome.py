"""What pre-training writes and measures of its tables, whichever model they are of.

In: each rank's share of both tables. Out: their files in the draft, and metrics on validation.
"""

from __future__ import annotations

import numpy as np
import torch

from cadc_rec.data.dataset import Dataset
from cadc_rec.data.user_items import UserItems
from cadc_rec.distributed.processes import Processes
from cadc_rec.evaluation.metrics import ranking_metrics
from cadc_rec.evaluation.sharded import ranks_by_share
from cadc_rec.pretrain.id_tables import IdTables, Scale, scaled
from cadc_rec.store.artifact import Draft


def save_shares(
    draft: Draft,
    user: torch.Tensor,
    item: torch.Tensor,
    dataset: Dataset,
    scale: Scale,
    processes: Processes,
) -> None:
    """Write this and every other rank's share of both tables, each brought to scale for itself."""
    rows = (dataset.n_users, dataset.n_items)
    total = processes.all_reduce_sum
    IdTables.save_shares(
        draft, scaled(user, scale, total), scaled(item, scale, total), rows, processes
    )


def validation_of(dataset: Dataset, shares: IdTables, processes: Processes) -> dict[str, float]:
    """What the tables rank, each rank its share of the users; every rank must call."""
    users, items = shares.as_dot_products()
    ranks = ranks_by_share(
        users,
        items,
        dataset.val_item,
        UserItems(dataset.user_indptr, dataset.train_item),
        processes,
        dataset.n_items,
    )
    held_out = np.asarray(dataset.val_item) >= 0
    return ranking_metrics(ranks[held_out], (10,)) if held_out.any() else {}
