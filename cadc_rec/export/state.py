"""What a bundle knows of users: all that is in the log, or what was known before the test items.

A model is evaluated by what it did not know. Served like that, it would recommend what a user has
just taken, and read a history that ends two items ago. In: a prepared dataset. Out: the same
dataset as it stands when the log has ended: nothing is held out.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cadc_rec.data.dataset import NOT_HELD_OUT, Dataset
from cadc_rec.data.request_codes import Codes
from cadc_rec.data.user_items import UserItems
from cadc_rec.export.programs import tower_programs
from cadc_rec.export.trained import TrainedModel
from cadc_rec.serving.bundle.foreseen import in_double

State = Literal["production", "evaluation"]
_BLOCK = 2**12  # users whose histories are looked up at once


def nothing_held_out(dataset: Dataset) -> Dataset:
    """The dataset with every held-out item as the latest of its user's; 16 bytes a row of D_full.

    Its columns of contexts and its files stay those of `dataset`.
    """
    taken = UserItems(dataset.user_indptr, dataset.train_item)
    times = dataset.train_timestamp
    owner = np.asarray(dataset.train_user)
    for held, when in (
        (dataset.val_item, dataset.val_timestamp),
        (dataset.test_item, dataset.test_timestamp),
    ):
        have = np.flatnonzero(np.asarray(held) >= 0)
        order = np.argsort(np.concatenate([owner, have.astype(owner.dtype)]), kind="stable")
        times = np.concatenate([times, when[have]])[order]
        owner = np.concatenate([owner, have.astype(owner.dtype)])[order]
        taken = taken.and_one_each(np.asarray(held))
    nothing = np.full(dataset.n_users, NOT_HELD_OUT, np.int32)
    return replace(
        dataset,
        train_user=owner,
        train_item=taken.items,
        user_indptr=taken.indptr,
        train_time=times,
        train_weight=None,
        by_item=None,
        val_item=nothing,
        test_item=nothing,
    )


def vectors_of_towers(
    trained: TrainedModel, log: Dataset, codes: Codes | None, folder: Path
) -> NDArray[np.float32]:
    """Vectors ``[n_users, d]`` of all users at the end of a log, by the bundle's query program.

    Args:
        trained: the towers.
        log: the users' histories.
        codes: of a request of each user ``[n_users, features]``; None where the model reads none.
        folder: has room for the vectors, which lie there in a file without a name.
    """
    program = tower_programs(trained)["query"].module.eval()

    def made(users: range) -> NDArray[np.float32]:
        given = [torch.arange(users.start, users.stop)]
        if trained.history_length:
            given.append(torch.from_numpy(_histories(log, users, trained.history_length)))
        if codes is not None:
            given.append(torch.from_numpy(codes[users.start : users.stop].astype(np.int64)))
        with torch.inference_mode():
            found: NDArray[np.float32] = program(*given).numpy()
        return found

    return _in_file(map(made, _blocks(log.n_users)), folder)


def vectors_of_histories(
    program: torch.nn.Module, log: Dataset, length: int, folder: Path
) -> NDArray[np.float32]:
    """The same of a model that reads nothing of a user but the history.

    In double precision, so that their last bits are the same on every machine, and a delta need not
    bring these vectors.
    """

    def made(users: range) -> NDArray[np.float32]:
        return in_double(program, _histories(log, users, length)).astype(np.float32)

    return _in_file(map(made, _blocks(log.n_users)), folder)


def _in_file(blocks: Iterator[NDArray[np.float32]], folder: Path) -> NDArray[np.float32]:
    """Blocks of rows one after the other, mapped: what is not used takes no memory."""
    rows = width = 0
    # A folder that may only be read has no room for it; the system's has to have.
    with tempfile.TemporaryFile(dir=folder if os.access(folder, os.W_OK) else None) as file:
        for block in blocks:
            file.write(np.ascontiguousarray(block, np.float32).data)
            rows, width = rows + len(block), block.shape[1]
        file.flush()
        # Writes stay with this process.
        return np.asarray(np.memmap(file, np.float32, "c", shape=(rows, width)))


def _blocks(n_users: int) -> Iterator[range]:
    for start in range(0, n_users, _BLOCK):
        yield range(start, min(start + _BLOCK, n_users))


def _histories(log: Dataset, users: range, length: int) -> NDArray[np.int64]:
    """The last items of some users, int64 ``[n, length]``, the latest first, then -1."""
    mine = slice(users.start, users.stop)
    return log.last_items(length, with_validation=False, users=mine).astype(np.int64)
