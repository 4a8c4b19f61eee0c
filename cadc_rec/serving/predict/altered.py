"""Attributes of items that were altered while a bundle is served, beside those of the bundle.

In: an attribute of a bundle, and what a few rows have now. Out: an attribute of all rows. The
bundle's posting lists stay as they are, so an alteration costs what is altered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadc_rec.serving.predict.bitmaps import Bitmap, Mask, Rows, flip, nothing, put
from cadc_rec.serving.predict.catalogue import CodedAttribute, ItemAttribute
from cadc_rec.serving.predict.conditions import Condition, among, union
from cadc_rec.serving.predict.numbers import Bound, NumericAttribute


@dataclass(frozen=True)
class AlteredAttribute:
    """An attribute of all items.

    Attributes:
        first: of the bundle's items.
        few: of the altered ones; codes of values that the bundle has are the bundle's.
        rows: which rows these are, ascending.
        n_first: how many rows the bundle has.
        n_items: how many there are in all; those that are nowhere else have no value.
    """

    first: CodedAttribute | NumericAttribute
    few: CodedAttribute | NumericAttribute
    rows: Rows
    n_first: int
    n_items: int

    @property
    def code_of(self) -> Mapping[Any, int]:
        """The code of each value; empty of numbers."""
        return self.few.code_of if isinstance(self.few, CodedAttribute) else {}

    def one_of(self, values: Sequence[Any]) -> Condition:
        """See `cadc_rec.serving.predict.catalogue.ItemAttribute`."""
        if isinstance(self.few, CodedAttribute) and isinstance(self.first, CodedAttribute):
            among_few = self.few.one_of(values)  # it refuses what nobody has
            known = [value for value in values if value in self.first.code_of]
            return self._both(self.first.one_of(known), among_few)
        assert isinstance(self.first, NumericAttribute)
        assert isinstance(self.few, NumericAttribute)
        wanted = self.first.numbers(values)
        of_bundle, in_bundle = self.first.of_numbers(wanted)
        of_few, in_few = self.few.of_numbers(wanted)
        self.first.require(in_bundle | in_few, values)
        return self._both(of_bundle, of_few)

    def within(self, bounds: Mapping[Bound, Any]) -> Condition:
        """See `cadc_rec.serving.predict.catalogue.ItemAttribute`."""
        return self._both(self.first.within(bounds), self.few.within(bounds))

    def of_row(self, row: int) -> list[Any]:
        """See `cadc_rec.serving.predict.catalogue.ItemAttribute`."""
        place = int(np.searchsorted(self.rows, row))
        if place < len(self.rows) and self.rows[place] == row:
            return self.few.of_row(place)
        return self.first.of_row(row) if row < self.n_first else []

    def having(self, found: Sequence[Any]) -> Condition:
        """See `cadc_rec.serving.predict.catalogue.ItemAttribute`."""
        if isinstance(self.few, CodedAttribute) and isinstance(self.first, CodedAttribute):
            known = [code for code in found if code <= len(self.first.code_of)]
            return self._both(self.first.having(known), self.few.having(found))
        return self.one_of(list(dict.fromkeys(found)))

    def _both(self, first: Condition, few: Condition) -> Condition:
        return _Both(first, few, self.rows, self.n_first, self.n_items)


@dataclass(frozen=True)
class _Both:
    """The rows of a bundle that match, and the altered ones that do."""

    first: Condition
    few: Condition
    altered: Rows
    n_first: int
    n_items: int

    @property
    def least(self) -> int:
        """See `Condition`."""
        return max(0, self.first.least - len(self.altered)) + self.few.least

    @property
    def most(self) -> int:
        """See `Condition`."""
        return min(self.n_items, self.first.most + self.few.most)

    def rows(self) -> Rows:
        """See `Condition`."""
        mine = self.first.rows()
        return union([mine[~among(mine, self.altered)], self.altered[self.few.rows()]])

    def holds(self, rows: NDArray[Any]) -> Mask:
        """See `Condition`."""
        wanted = np.asarray(rows)
        inside = wanted < self.n_first
        if inside.all():
            found = self.first.holds(wanted)
        else:
            found = np.zeros(len(wanted), np.bool_)
            found[inside] = self.first.holds(wanted[inside])
        if len(self.altered):
            places = np.searchsorted(self.altered, wanted).clip(max=len(self.altered) - 1)
            there = self.altered[places] == wanted
            found[there] = self.few.holds(places[there])
        return found

    def bitmap(self) -> Bitmap:
        """See `Condition`."""
        packed = nothing(self.n_items)
        of_bundle = self.first.bitmap().packed
        packed[: len(of_bundle)] = of_bundle
        before = self.altered[self.altered < self.n_first]
        flip(packed, before[self.first.holds(before)])
        put(packed, self.altered[self.few.rows()])
        return Bitmap(packed, self.n_items)


def altered_attribute(
    first: ItemAttribute,
    rows: Rows,
    told: Sequence[Mapping[str, Any]],
    n_first: int,
    n_items: int,
) -> ItemAttribute:
    """An attribute of a bundle, with what was told of some rows.

    Args:
        first: of the bundle.
        rows: ascending.
        told: of each of the rows, values by attribute; what is not named is as the bundle has it.
        n_first: how many rows the bundle has.
        n_items: how many there are in all.
    """
    if n_items == n_first and not len(rows):
        return first
    if isinstance(first, CodedAttribute):
        few = _coded(first, rows, told, n_first)
        return AlteredAttribute(first, few, rows, n_first, n_items)
    if isinstance(first, NumericAttribute):
        numbers = _numbers(first, rows, told, n_first)
        return AlteredAttribute(first, numbers, rows, n_first, n_items)
    return first


def _coded(
    first: CodedAttribute, rows: Rows, told: Sequence[Mapping[str, Any]], n_first: int
) -> CodedAttribute:
    code_of, codes, ends = first.code_of, list[int](), [0]
    for row, values in zip(rows.tolist(), told, strict=True):
        if first.name not in values:
            own = slice(first.indptr[row], first.indptr[row + 1]) if row < n_first else None
            codes += [] if own is None else first.codes[own].tolist()
        else:
            value = values[first.name]
            mine = value if isinstance(value, list) else [] if value is None else [value]
            new = [one for one in mine if one not in code_of]
            if new and code_of is first.code_of:
                code_of = dict(code_of)
            for one in new:
                code_of[one] = len(code_of) + 1  # type: ignore[index]  # a copy by now
            codes += [code_of[one] for one in mine]
        ends.append(len(codes))
    return CodedAttribute(first.name, code_of, np.array(ends, np.int64), np.array(codes, np.int32))


def _numbers(
    first: NumericAttribute, rows: Rows, told: Sequence[Mapping[str, Any]], n_first: int
) -> NumericAttribute:
    values = np.full(len(rows), np.nan)
    for place, (row, mine) in enumerate(zip(rows.tolist(), told, strict=True)):
        if first.name in mine:
            values[place] = np.nan if mine[first.name] is None else mine[first.name]
        elif row < n_first:
            values[place] = first.values[row]
    return NumericAttribute(first.name, values)
