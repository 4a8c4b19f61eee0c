"""A prepared dataset as NumPy arrays, for everything that learns or measures.

In: the artifact of the prepare stage. Out: D_full sorted by user and time, the held-out items, and
both sides' attributes as CSR, their vectors and numbers as memory-mapped tables.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse

from cadc_rec.data.columns import Columns, train_files
from cadc_rec.data.dense import DenseAttribute, read_dense
from cadc_rec.data.forgotten import Forgotten
from cadc_rec.data.ids.living import generations
from cadc_rec.data.prepare.vocabulary import UNKNOWN
from cadc_rec.data.sources.raw_tables import (
    PER_SECOND,
    AttributeKind,
    Side,
    TimestampKind,
    TimeUnit,
)
from cadc_rec.data.streams import one_array, read_groups
from cadc_rec.errors import CadcError
from cadc_rec.store.artifact import Artifact

NOT_HELD_OUT = -1
NO_ITEM = -1
_USERS = 2**15  # whose items are looked up at once


@dataclass(frozen=True)
class Attribute:
    """An attribute of all users (or items): n has codes ``values[indptr[n]:indptr[n + 1]]``."""

    name: str
    kind: AttributeKind
    """``categorical``, ``numeric``: exactly one code each. ``multi``: any number, none when nothing
    is known."""
    size: int
    """Number of codes; code 0 is "missing or unknown"."""
    indptr: NDArray[np.int64]
    """``[n + 1]``"""
    values: NDArray[np.int32]
    """``[indptr[-1]]``, in ``[0, size)``"""


@dataclass(frozen=True)
class Dataset:
    """The train split (D_full), the held-out items and the attributes."""

    path: Path
    """The artifact's folder."""
    n_users: int
    n_items: int
    train_user: NDArray[np.int32]
    """``[rows]``, ascending; a user's rows are in the order of time."""
    train_item: NDArray[np.int32]
    """``[rows]``"""
    user_indptr: NDArray[np.int64]
    """``[n_users + 1]``: user u's rows are ``user_indptr[u]:user_indptr[u + 1]``."""
    val_item: NDArray[np.int32]
    """``[n_users]``, -1 where the user has none."""
    test_item: NDArray[np.int32]
    """``[n_users]``, -1 where the user has none."""
    user_attributes: list[Attribute]
    item_attributes: list[Attribute]
    """Of the `n_items` that were taken."""
    order: str
    """How a user's interactions were ordered for the split: by time, or by a seeded draw."""
    train_weight: NDArray[np.float32] | None = None
    """``[rows]``, above 0; None where every interaction weighs 1."""
    n_untaken: int = 0
    """Items that nobody took yet. They are numbered from `n_items` on, and nothing that learns or
    measures knows of them."""
    timestamp_kind: TimestampKind = "none"
    """Whether times are a clock's, only each user's order, or not there."""
    time_unit: TimeUnit = ""
    """What the stored times count since 1970; empty where that is not known."""
    user_dense: list[DenseAttribute] = field(default_factory=list)
    """Vectors and numbers of the users."""
    item_dense: list[DenseAttribute] = field(default_factory=list)
    """Those of the `n_items` that were taken."""
    by_item: tuple[NDArray[np.int64], NDArray[np.int32]] | None = None
    """See `csr_by_item`; None where it was not prepared."""
    forgotten: Forgotten = field(default_factory=Forgotten.nobody)
    """Users and items whose rows are empty because they were forgotten."""
    train_time: NDArray[np.float64] | None = None
    """See `train_timestamp`; None where it was not prepared."""

    @staticmethod
    def open(artifact: Artifact) -> Dataset:
        """Open a prepared dataset.

        D_full's columns are mapped; of a dataset that was prepared before there were any, they are
        read into memory (8 bytes an interaction).
        """
        path, info = artifact.path, artifact.info
        n_users, n_items, rows = int(info["users"]), int(info["items"]), int(info["train"])
        columns = Columns.open(path, rows, n_users)
        described = json.loads((path / "attributes.json").read_text("utf-8"))
        return Dataset(
            path=path,
            n_users=n_users,
            n_items=n_items,
            train_user=columns.user,
            train_item=columns.item,
            user_indptr=columns.user_indptr,
            val_item=_held_out(path / "val.parquet", n_users),
            test_item=_held_out(path / "test.parquet", n_users),
            user_attributes=_attributes(path / "users.parquet", described["user"]),
            item_attributes=_attributes(path / "items.parquet", described["item"], 0, n_items),
            order=str(info["order"]),
            train_weight=columns.weight,
            n_untaken=int(info.get("untaken_items", 0)),
            timestamp_kind=info["timestamp_kind"],
            time_unit=info["time_unit"],
            user_dense=read_dense(path, "user"),
            item_dense=read_dense(path, "item", 0, n_items),
            by_item=columns.by_item,
            forgotten=Forgotten.open(path),
            train_time=columns.time,
        )

    @cached_property
    def csr_by_item(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """D_full by item: indptr ``[n_items + 1]`` and users ``[rows]``, ascending in an item."""
        if self.by_item is not None:
            return self.by_item
        present = np.ones(len(self.train_item), dtype=np.int8)
        shape = (self.n_users, self.n_items)
        by_user = sparse.csr_matrix((present, self.train_item, self.user_indptr), shape=shape)
        by_item = by_user.tocsc()  # a counting sort: linear, where argsort is not
        return by_item.indptr.astype(np.int64), by_item.indices.astype(np.int32, copy=False)

    @cached_property
    def item_counts(self) -> NDArray[np.int64]:
        """Interactions of each item in D_full ``[n_items]``."""
        if self.by_item is not None:
            return np.diff(self.by_item[0])
        return np.bincount(self.train_item, minlength=self.n_items)

    def require_clock(self, setting: str) -> None:
        """Refuse a setting that needs times of the world.

        Args:
            setting: as a person would write it.

        Raises:
            CadcError: there are no times, they are only an order, or their unit is not known.
        """
        own = "data.tables.interactions"
        if self.timestamp_kind == "none":
            raise CadcError(
                f"{setting} needs the times of a clock, and this dataset has none; leave it out, "
                f"or name their column in {own}.timestamp."
            )
        if self.timestamp_kind == "order":
            raise CadcError(
                f"{setting} needs the times of a clock, and this dataset's are only each user's "
                f"order; leave it out, or, if they are times, set {own}.timestamp_kind = 'clock'."
            )
        if not self.time_unit:
            raise CadcError(
                f"{setting} needs the unit of the interactions' times, which is not known; leave "
                f"it out, or set {own}.unit."
            )

    @cached_property
    def train_timestamp(self) -> NDArray[np.float64]:
        """The times of D_full's rows: seconds ``[rows]``, mapped, or read when first asked for.

        Since 1970, if a clock; of unknown unit, the numbers as they are; 0 where there are none.
        Rounding them to a float keeps their order: of two times, none comes to lie after the other
        that did not.
        """
        if self.train_time is not None:
            return self.train_time
        times = np.empty(len(self.train_user), np.float64)
        start = 0
        for group in read_groups(train_files(self.path), columns=["timestamp"]):
            end = start + group.num_rows
            times[start:end] = group["timestamp"].to_numpy()
            start = end
        return self._seconds(times)

    @cached_property
    def val_timestamp(self) -> NDArray[np.float64]:
        """The times of the validation items, likewise: ``[n_users]``, NaN where there is none."""
        return self._held_out_times("val.parquet")

    @cached_property
    def test_timestamp(self) -> NDArray[np.float64]:
        """The times of the test items, likewise: ``[n_users]``, NaN where there is none."""
        return self._held_out_times("test.parquet")

    def _held_out_times(self, name: str) -> NDArray[np.float64]:
        table = pq.read_table(self.path / name, columns=["user", "timestamp"])
        times = np.full(self.n_users, np.nan)
        times[table["user"].to_numpy()] = table["timestamp"].to_numpy()
        return self._seconds(times)

    def _seconds(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Stored times as seconds, in place."""
        if self.time_unit:
            times /= PER_SECOND[self.time_unit]
        return times

    def history_before(self, rows: NDArray[np.int64], length: int) -> NDArray[np.int32]:
        """The items a user took before each of these interactions.

        Args:
            rows: positions in D_full ``[n]``; an interaction itself is no part of its history, nor
                is any that stands after it in its user's order.
            length: items to go back at most.

        Returns:
            int32 ``[n, length]``, the latest first; -1 where the user had no more.
        """
        return self._items_before(rows, self.user_indptr[self.train_user[rows]], length)

    def last_items(
        self, length: int, with_validation: bool, users: NDArray[np.int64] | slice | None = None
    ) -> NDArray[np.int32]:
        """What is known of users in the end: int32 ``[users, length]``, the latest first.

        Args:
            length: items to go back at most; -1 stands where a user has no more.
            with_validation: whether the validation item counts as known; for the test item, it
                does.
            users: rows of users, or a run of them; None for all.
        """
        chosen = slice(None) if users is None else users
        starts, ends = self.user_indptr[:-1][chosen], self.user_indptr[1:][chosen]
        last = self._items_before(ends, starts, length)
        if with_validation and length:
            held_out = self.val_item[chosen]
            have = np.flatnonzero(held_out >= 0)
            last[have, 1:] = last[have, :-1]
            last[have, 0] = held_out[have]
        return last

    def _items_before(
        self, ends: NDArray[np.int64], starts: NDArray[np.int64], length: int
    ) -> NDArray[np.int32]:
        """Items of D_full at ``ends - 1, ends - 2, ...``, down to `starts`; then -1."""
        items = np.full((len(ends), length), NO_ITEM, np.int32)
        for first in range(0, len(ends), _USERS):  # what is formed takes many times the items
            piece = slice(first, first + _USERS)
            places = ends[piece, None] - 1 - np.arange(length)
            inside = places >= starts[piece, None]
            items[piece][inside] = self.train_item[places[inside]]
        return items

    def generation(self, side: Side) -> NDArray[np.int32]:
        """How many owners each row of a side had before its own, ``[n]``.

        Two datasets of a chain of updates mean the same user or item by a row if and only if they
        have the same number there.
        """
        return generations(self.path, side, self.n_users if side == "user" else self.n_items)

    def user_ids(self) -> pa.Array:
        """Original user ids in dense-id order: int64, string, or of 2 GiB and more large_string."""
        return _column(self.path / "users.parquet", "user_id")

    def item_ids(self) -> pa.Array:
        """Original ids of the items that were taken, in dense-id order."""
        return _column(self.path / "items.parquet", "item_id")[: self.n_items]

    def item_titles(self) -> pa.Array | None:
        """Their titles (null where unknown), or None when the source has none."""
        path = self.path / "items.parquet"
        if "title" not in pq.read_schema(path).names:
            return None
        return _column(path, "title")[: self.n_items]

    def untaken_attributes(self) -> list[Attribute]:
        """Attributes of the items that nobody took yet.

        Values that no item had that was taken are left out, for nothing was learned of them.
        """
        return self._item_attributes(self.n_items, self.n_untaken)

    def every_item_attributes(self) -> list[Attribute]:
        """The same of all items, those that nobody took yet last."""
        return self._item_attributes(0, self.n_items + self.n_untaken)

    def _item_attributes(self, first: int, count: int) -> list[Attribute]:
        described = json.loads((self.path / "attributes.json").read_text("utf-8"))["item"]
        found = _attributes(self.path / "items.parquet", described, first, count)
        return [known_to_towers(attribute) for attribute in found]

    def every_item_dense(self) -> list[DenseAttribute]:
        """Vectors and numbers of all items, those that nobody took yet last."""
        return read_dense(self.path, "item", 0, self.n_items + self.n_untaken)

    def untaken_dense(self) -> list[DenseAttribute]:
        """Vectors and numbers of the items that nobody took yet."""
        return read_dense(self.path, "item", self.n_items, self.n_untaken)


def known_to_towers(attribute: Attribute) -> Attribute:
    """The attribute without codes beyond its size: unknown, or of several values not there."""
    learned = attribute.values < attribute.size
    if attribute.kind != "multi":
        return replace(attribute, values=np.where(learned, attribute.values, UNKNOWN))
    kept = _indptr(learned)[attribute.indptr]
    return replace(attribute, indptr=kept, values=attribute.values[learned])


def _held_out(path: Path, n_users: int) -> NDArray[np.int32]:
    table = pq.read_table(path, columns=["user", "item"])
    items = np.full(n_users, NOT_HELD_OUT, np.int32)
    items[table["user"].to_numpy()] = table["item"].to_numpy()
    return items


def _attributes(
    path: Path, described: list[dict[str, Any]], first: int = 0, count: int | None = None
) -> list[Attribute]:
    """The attributes of `count` entities from number `first` on; of all that follow if None."""
    table = pq.read_table(path, columns=[entry["name"] for entry in described])
    table = table.slice(first, count)
    return [coded_attribute(table[entry["name"]], entry) for entry in described]


def coded_attribute(codes: pa.Array | pa.ChunkedArray, entry: dict[str, Any]) -> Attribute:
    """An attribute of its codes.

    Args:
        codes: int32, or of several values lists of them; one for each user or item.
        entry: its name, kind and size.
    """
    column = one_array(codes)
    if entry["kind"] != "multi":
        lengths, values = np.ones(len(column), np.int64), column.to_numpy()
    else:
        lengths, values = np.diff(column.offsets.to_numpy()), column.flatten().to_numpy()
    return Attribute(
        name=entry["name"],
        kind=entry["kind"],
        size=int(entry["size"]),
        indptr=_indptr(lengths),
        values=np.ascontiguousarray(values, np.int32),
    )


def _indptr(counts: NDArray[Any]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _column(path: Path, name: str) -> pa.Array:
    return one_array(pq.read_table(path, columns=[name])[name])
