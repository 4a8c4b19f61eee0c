"""Which users' validation items are ranked: all, or a sample where there are many."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.dataset import NOT_HELD_OUT, Dataset
from cadc_rec.data.randomness import Purpose, bit_generator


def validation_sample(val_item: np.ndarray, most: int, seed: int) -> NDArray[np.int64] | None:
    """The users to rank on validation, where they are not simply all.

    The draw depends on the seed and on a user's row: methods, epochs and processes agree on the
    sample, and an update that adds users keeps most of it.

    Args:
        val_item: validation item of each user, -1 for none; int ``[n_users]``.
        most: users that are ranked at most; 0 is no limit.
        seed: ``data.split_seed``, so that all seeds of an experiment are judged on the same users.

    Returns:
        Rows of users, ascending; None where no more than `most` have a validation item.
    """
    have = np.flatnonzero(np.asarray(val_item) >= 0)
    if not most or len(have) <= most:
        return None
    drawn = bit_generator((seed, Purpose.VALIDATION_USERS)).random_raw(len(val_item))[have]
    return np.sort(have[np.argsort(drawn, kind="stable")[:most]])


def sampled_validation(dataset: Dataset, most: int, seed: int) -> Dataset:
    """The dataset with the validation items of `validation_sample` alone."""
    sample = validation_sample(dataset.val_item, most, seed)
    if sample is None:
        return dataset
    kept = np.full_like(dataset.val_item, NOT_HELD_OUT)
    kept[sample] = dataset.val_item[sample]
    return replace(dataset, val_item=kept)
