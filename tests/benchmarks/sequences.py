"""A dataset whose next item is certain, for the tests of sequential models."""

from pathlib import Path

import numpy as np

from cadc_rec.data.dataset import Dataset


def cycles(users=60, items=12, rows=8, **more):
    """Users who take one item after the other: what comes next is certain."""
    taken = (np.arange(users)[:, None] + np.arange(rows + 2)) % items
    taken = taken.astype(np.int32)
    return Dataset(
        path=Path(),
        n_users=users,
        n_items=items,
        train_user=np.repeat(np.arange(users, dtype=np.int32), rows),
        train_item=taken[:, :rows].ravel(),
        user_indptr=np.arange(users + 1) * rows,
        val_item=taken[:, rows].copy(),
        test_item=taken[:, rows + 1].copy(),
        user_attributes=[],
        item_attributes=[],
        order="time",
        **more,
    )
