"""Which item followed which: a sparse item-to-item matrix from every training interaction.

An item at distance d after another, in one user's sequence, counts ``decay ** (d - 1)`` up to the
window's end; counts are summed over all users and may be damped. Only pairs that occur are ever
held: the pairs are made and summed by the engine that prepares data, which spills to disk.
"""

from __future__ import annotations

from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from scipy import sparse

from cadc_rec.config import TransitionsConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.engine import open_engine

_PARTS = ("data", "indices", "indptr")


def transition_counts(sequences: ir.Table, window: int, decay: float) -> ir.Table:
    """Sum the weights of all pairs.

    Args:
        sequences: user, item and place, the item's position in the user's sequence.
        window: largest distance of a pair.
        decay: weight of one step more.

    Returns:
        source, target and weight; one row for each pair of items that occurs.
    """
    before = sequences.mutate(distance=ibis.range(1, window + 1).unnest())
    before = before.select("user", "distance", source="item", place=before.place + before.distance)
    after = sequences.view().select("user", "place", target="item")
    pairs = before.join(
        after, ["user", "place"]
    )  # by equality: a hash join, however long users are
    pairs = pairs.mutate(weight=ibis.literal(decay, "float64") ** (pairs.distance - 1))
    return pairs.group_by("source", "target").agg(weight=pairs.weight.sum())


def transition_matrix(
    dataset: Dataset, config: TransitionsConfig, scratch: Path
) -> sparse.csr_array:
    """The damped matrix ``[n_items, n_items]``, float32: how often a row's item led to a column's.

    Args:
        dataset: D_full, a user's rows in the order of time; held-out items have no part in it.
        config: window, decay and damping.
        scratch: an existing folder for the engine; the caller removes it.
    """
    place = np.arange(len(dataset.train_item)) - dataset.user_indptr[dataset.train_user]
    columns = {"user": dataset.train_user, "item": dataset.train_item, "place": place}
    with open_engine(scratch) as backend:
        sequences = backend.create_table("sequences", ibis.memtable(pa.table(columns)))
        counts = transition_counts(sequences, config.window, config.decay)
        pairs = counts.order_by(["source", "target"]).to_pyarrow()
    source, target, weight = (pairs[name].to_numpy() for name in ("source", "target", "weight"))
    if config.damping == "log":
        weight = np.log1p(weight)
    indptr = np.searchsorted(source, np.arange(dataset.n_items + 1))
    shape = (dataset.n_items, dataset.n_items)
    return sparse.csr_array((weight.astype(np.float32), target, indptr), shape=shape)


def save_matrix(matrix: sparse.csr_array, folder: Path) -> None:
    """Write a matrix where other processes can map it into memory."""
    for part in _PARTS:
        np.save(folder / f"{part}.npy", getattr(matrix, part), allow_pickle=False)


def load_matrix(folder: Path, items: int) -> sparse.csr_array:
    """What `save_matrix` wrote, ``[items, items]``."""
    parts = (np.load(folder / f"{part}.npy", mmap_mode="r", allow_pickle=False) for part in _PARTS)
    return sparse.csr_array(tuple(parts), shape=(items, items))
