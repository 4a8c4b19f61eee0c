"""The attributes of items, and which items have which values.

In: columns of attributes, row n being item number n. Out: a `Condition` on rows, to have one of
some values or a number within bounds. Posting lists (the rows of each value, ascending) are made at
load, so that a request pays for the rows that it matches; where these are many, bitmaps are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cadc_rec.data.prepare.values import value_column
from cadc_rec.errors import CadcError
from cadc_rec.serving.predict.bitmaps import Bitmap, InOrder, Mask, Rows, nothing
from cadc_rec.serving.predict.conditions import Condition, union
from cadc_rec.serving.predict.numbers import Bound, NumericAttribute, limits_of


class ItemAttribute(Protocol):
    """One attribute of all items."""

    def one_of(self, values: Sequence[Any]) -> Condition:
        """The items that have one of these values.

        Raises:
            CadcError: no item has one of them, or the values are not kept.
        """

    def within(self, bounds: Mapping[Bound, Any]) -> Condition:
        """The items that have a number within all of these bounds.

        Raises:
            CadcError: the attribute's values or the bounds are no numbers.
        """

    def of_row(self, row: int) -> list[Any]:
        """What `having` takes: each known value of one item.

        Raises:
            CadcError: the values are not kept.
        """

    def having(self, found: Sequence[Any]) -> Condition:
        """The items that have one of some values that `of_row` gave."""


def attribute_of(described: Mapping[str, Any], items: pa.Table) -> ItemAttribute:
    """An attribute of a bundle.

    Args:
        described: its entry of ``attributes.json``: name, kind and vocabulary.
        items: ``items.parquet``.
    """
    name, kind = described["name"], described["kind"]
    if kind == "hashed":
        return Unfilterable(
            f"{name} is hashed and its values are not kept, so several may share a code; to filter "
            f"by it, name it under categorical in data.tables.items"
        )
    column = items[name].combine_chunks()
    if kind != "numeric":
        return CodedAttribute.of_column(name, column, described["vocabulary"])
    if value_column(name) not in items.column_names:
        return Unfilterable(
            f"this bundle has only the buckets of {name} and not its values; prepare the data "
            "again and export it anew"
        )
    values = items[value_column(name)].combine_chunks().cast(pa.float64())
    return NumericAttribute(name, values.fill_null(np.nan).to_numpy(zero_copy_only=False))


@dataclass(frozen=True)
class CodedAttribute:
    """An attribute with a list of values, as CSR: item n has ``codes[indptr[n]:indptr[n + 1]]``.

    Attributes:
        name: of the attribute, for messages.
        code_of: of each value, from 1 to their number; code 0 is unknown.
        indptr: int64 ``[n + 1]``.
        codes: int32.
    """

    name: str
    code_of: Mapping[Any, int]
    indptr: NDArray[np.int64]
    codes: NDArray[np.int32]

    def __post_init__(self) -> None:
        self._postings  # noqa: B018 # made at load, and not by the first request

    @classmethod
    def of_column(cls, name: str, column: pa.Array, vocabulary: Sequence[Any]) -> CodedAttribute:
        """The attribute of a Parquet column: a code, or a list of codes, an item."""
        code_of = {value: code for code, value in enumerate(vocabulary, start=1)}
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            indptr, codes = column.offsets.to_numpy().astype(np.int64), column.values
            return cls(name, code_of, indptr, codes.to_numpy().astype(np.int32))
        indptr = np.arange(len(column) + 1, dtype=np.int64)
        return cls(name, code_of, indptr, column.to_numpy().astype(np.int32))

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @cached_property
    def _postings(self) -> tuple[NDArray[np.int64], InOrder]:
        """Where the rows of each code begin, int64 ``[codes + 2]``, and the rows."""
        codes = self.codes[self.indptr[0] : self.indptr[-1]]
        order = np.argsort(codes, kind="stable")
        rows = order.astype(np.int32)
        if not self.one_each:
            rows, codes = self._row_of_entries()[order], codes[order]
            # An item may name a value twice.
            once = (np.diff(rows, prepend=-1) != 0) | (np.diff(codes, prepend=-1) != 0)
            rows, codes = rows[once], codes[once]
        counts = np.bincount(codes, minlength=len(self.code_of) + 1)
        starts = np.concatenate([[0], np.cumsum(counts)])
        return starts, InOrder(rows, len(self))

    @cached_property
    def one_each(self) -> bool:
        """Whether item n has ``codes[n]`` alone."""
        return bool((self.indptr == np.arange(len(self.indptr))).all())

    def _row_of_entries(self) -> Rows:
        return np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.indptr))

    def posting(self, code: int) -> Rows:
        """The rows that have a code, ascending."""
        starts, entries = self._postings
        return entries.rows[starts[code] : starts[code + 1]]

    def one_of(self, values: Sequence[Any]) -> Condition:
        """See `ItemAttribute`."""
        codes = []
        for value in values:
            try:
                # True would be found as 1.
                codes.append(self.code_of[None if isinstance(value, bool) else value])
            except (KeyError, TypeError):
                raise CadcError(f"no item has {self.name} = {value!r:.80}.") from None
        return self.having(codes)

    def within(self, bounds: Mapping[Bound, Any]) -> Condition:
        """See `ItemAttribute`."""
        limits = limits_of(self.name, bounds)
        if not all(isinstance(value, int | float) for value in self.code_of):
            raise CadcError(
                f"{self.name} has values that are text, and {next(iter(bounds))!r} compares "
                "numbers; name the values with 'in'."
            )
        return self.having([code for value, code in self.code_of.items() if limits.hold(value)])

    def of_row(self, row: int) -> list[int]:
        """See `ItemAttribute`."""
        codes = self.codes[self.indptr[row] : self.indptr[row + 1]].tolist()
        return [code for code in dict.fromkeys(codes) if code]

    def having(self, found: Sequence[Any]) -> Condition:
        """See `ItemAttribute`."""
        return _HasCode(self, tuple(dict.fromkeys(found)))


@dataclass(frozen=True)
class _HasCode:
    """The rows that have one of some codes."""

    attribute: CodedAttribute
    wanted: tuple[int, ...]

    @property
    def _counts(self) -> list[int]:
        starts, _ = self.attribute._postings
        return [int(starts[code + 1] - starts[code]) for code in self.wanted]

    @property
    def least(self) -> int:
        """See `Condition`; no list of values names one twice."""
        return max(self._counts, default=0)

    @property
    def most(self) -> int:
        """See `Condition`."""
        return min(len(self.attribute), sum(self._counts))

    def rows(self) -> Rows:
        """See `Condition`."""
        lists = [self.attribute.posting(code) for code in self.wanted]
        return union(lists) if lists else np.zeros(0, np.int32)

    def holds(self, rows: NDArray[Any]) -> Mask:
        """See `Condition`."""
        attribute = self.attribute
        wanted = np.zeros(len(attribute.code_of) + 1, np.bool_)
        wanted[list(self.wanted)] = True
        if attribute.one_each:  # a third of the reads, which miss the caches
            return wanted[attribute.codes[rows]]
        start = attribute.indptr[rows]
        count = attribute.indptr[np.asarray(rows) + 1] - start
        found = np.zeros(len(rows), np.bool_)
        for place in range(int(count.max(initial=0))):  # few values an item
            there = np.flatnonzero(count > place)
            found[there] |= wanted[attribute.codes[start[there] + place]]
        return found

    def bitmap(self) -> Bitmap:
        """See `Condition`."""
        starts, entries = self.attribute._postings
        first = np.sort(np.array(self.wanted, np.int64))
        after = first + 1
        if self.attribute.one_each and len(first):  # neighbouring codes are one piece
            new = np.diff(first, prepend=-1) != 1
            new[0] = True
            first, after = first[new], after[np.append(new[1:], True)]
        packed = nothing(len(self.attribute))
        for start, stop in zip(starts[first].tolist(), starts[after].tolist(), strict=True):
            entries.add(packed, start, stop)
        return Bitmap(packed, len(self.attribute))


@dataclass(frozen=True)
class Unfilterable:
    """An attribute whose values are not there.

    Attributes:
        why: as one clause.
    """

    why: str

    def one_of(self, values: Sequence[Any]) -> Condition:
        """See `ItemAttribute`."""
        raise CadcError(f"{self.why}.")

    def within(self, bounds: Mapping[Bound, Any]) -> Condition:
        """See `ItemAttribute`."""
        raise CadcError(f"{self.why}.")

    def of_row(self, row: int) -> list[Any]:
        """See `ItemAttribute`."""
        raise CadcError(f"{self.why}.")

    def having(self, found: Sequence[Any]) -> Condition:
        """See `ItemAttribute`."""
        raise CadcError(f"{self.why}.")
