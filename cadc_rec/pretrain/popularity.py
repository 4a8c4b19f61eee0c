"""Popularity as a factorization: the number of an item's training interactions is its bias.

It is what every method has to beat. As `IdTables` it is scored, ranked and measured like the rest.
"""

from __future__ import annotations

import numpy as np
import torch

from cadc_rec.pretrain.id_tables import IdTables


def popularity_tables(train_item: np.ndarray, n_users: int, n_items: int) -> IdTables:
    """Tables ``[n, 2]`` of one factor, all zero, and a bias: the item's count.

    Args:
        train_item: item of every training interaction.
        n_users: rows of the user table.
        n_items: rows of the item table.
    """
    user, item = torch.zeros(n_users, 2), torch.zeros(n_items, 2)
    item[:, 1] = torch.from_numpy(np.bincount(train_item, minlength=n_items).astype(np.float32))
    return IdTables(user, item)
