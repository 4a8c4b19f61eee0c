"""Items by a number: those that have it within bounds.

In: a number an item, as it stands in the table of items. Out: the rows whose numbers are within
bounds. The order of the numbers is made at load, and a range is a piece of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cadc_rec.errors import CadcError
from cadc_rec.serving.predict.bitmaps import Bitmap, InOrder, Mask, Rows, nothing
from cadc_rec.serving.predict.conditions import Condition, among

Bound = Literal["<", "<=", ">", ">="]
BOUNDS: tuple[Bound, ...] = ("<", "<=", ">", ">=")


@dataclass(frozen=True)
class NumericAttribute:
    """An attribute of numbers.

    Attributes:
        name: of the attribute, for messages.
        values: float64 ``[n]``, as they stand in the table; dates are seconds since 1970; NaN:
            unknown.
    """

    name: str
    values: NDArray[np.float64]

    def __post_init__(self) -> None:
        self._sorted  # noqa: B018 # made at load, and not by the first request

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.float64], InOrder]:
        """The known values, ascending, and the row of each."""
        order = np.argsort(self.values, kind="stable")  # NaN comes last
        known = order[: len(order) - int(np.isnan(self.values).sum())]
        return self.values[known], InOrder(known.astype(np.int32), len(self.values))

    def one_of(self, values: Sequence[Any]) -> Condition:
        """See `cadc_rec.serving.predict.catalogue.ItemAttribute`."""
        wanted = self.numbers(values)
        found, there = self.of_numbers(wanted)
        self.require(there, values)
        return found

    def numbers(self, values: Sequence[Any]) -> NDArray[np.float64]:
        """Values that came with a request.

        Raises:
            CadcError: one is no number.
        """
        return np.array([number(one, f"{self.name} has numbers") for one in values], np.float64)

    def of_numbers(self, wanted: NDArray[np.float64]) -> tuple[Condition, Mask]:
        """The items that have one of these numbers, and which of the numbers any item has."""
        ordered, _ = self._sorted
        start, stop = (np.searchsorted(ordered, wanted, side) for side in ("left", "right"))
        there: Mask = start < stop
        _, once = np.unique(wanted[there], return_index=True)
        start, stop = start[there][once], stop[there][once]
        return _OneOf(self, wanted[there][once], start, stop), there

    def require(self, there: Mask, values: Sequence[Any]) -> None:
        """Require that some item has each of the values.

        Raises:
            CadcError: none has one of them.
        """
        lost = np.flatnonzero(~there)
        if len(lost):
            raise CadcError(f"no item has {self.name} = {values[int(lost[0])]!r:.80}.")

    def within(self, bounds: Mapping[Bound, Any]) -> Condition:
        """See `cadc_rec.serving.predict.catalogue.ItemAttribute`."""
        limits = limits_of(self.name, bounds)
        ordered, _ = self._sorted
        start = np.searchsorted(ordered, limits.low, "right" if limits.above else "left")
        stop = np.searchsorted(ordered, limits.high, "left" if limits.below else "right")
        return _InOrder(self, int(start), max(int(start), int(stop)))

    def of_row(self, row: int) -> list[float]:
        """See `cadc_rec.serving.predict.catalogue.ItemAttribute`."""
        value = float(self.values[row])
        return [] if np.isnan(value) else [value]

    def having(self, found: Sequence[Any]) -> Condition:
        """See `cadc_rec.serving.predict.catalogue.ItemAttribute`."""
        return self.one_of(list(dict.fromkeys(found)))


@dataclass(frozen=True)
class _OneOf:
    """The rows that have one of some numbers.

    Attributes:
        attribute: whose numbers these are.
        wanted: the numbers, ascending, each once.
        start: where the rows of each begin in ascending order of the numbers.
        stop: where they end.
    """

    attribute: NumericAttribute
    wanted: NDArray[np.float64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]

    @property
    def least(self) -> int:
        """See `Condition`."""
        return int((self.stop - self.start).sum())

    @property
    def most(self) -> int:
        """See `Condition`."""
        return self.least

    def rows(self) -> Rows:
        """See `Condition`."""
        rows = self.attribute._sorted[1].rows
        parts = [rows[a:b] for a, b in zip(self.start.tolist(), self.stop.tolist(), strict=True)]
        found = np.concatenate([*parts, rows[:0]])
        return np.sort(found, kind="stable")  # merges the rows of each value, which ascend already

    def holds(self, rows: NDArray[Any]) -> Mask:
        """See `Condition`."""
        return among(self.attribute.values[rows], self.wanted)

    def bitmap(self) -> Bitmap:
        """See `Condition`."""
        packed = nothing(len(self.attribute.values))
        for start, stop in zip(self.start.tolist(), self.stop.tolist(), strict=True):
            self.attribute._sorted[1].add(packed, start, stop)
        return Bitmap(packed, len(self.attribute.values))


@dataclass(frozen=True)
class _InOrder:
    """The rows whose numbers stand from `start` to `stop` in ascending order."""

    attribute: NumericAttribute
    start: int
    stop: int

    @property
    def least(self) -> int:
        """See `Condition`."""
        return self.stop - self.start

    @property
    def most(self) -> int:
        """See `Condition`."""
        return self.stop - self.start

    def rows(self) -> Rows:
        """See `Condition`."""
        found = self.attribute._sorted[1].rows[self.start : self.stop]
        return np.sort(found, kind="stable")  # merges the rows of each value, which ascend already

    def holds(self, rows: NDArray[Any]) -> Mask:
        """See `Condition`."""
        if self.start == self.stop:
            return np.zeros(len(rows), np.bool_)
        values, (ordered, _) = self.attribute.values[rows], self.attribute._sorted
        found: Mask = (values >= ordered[self.start]) & (values <= ordered[self.stop - 1])
        return found

    def bitmap(self) -> Bitmap:
        """See `Condition`."""
        packed = nothing(len(self.attribute.values))
        self.attribute._sorted[1].add(packed, self.start, self.stop)
        return Bitmap(packed, len(self.attribute.values))


@dataclass(frozen=True)
class Limits:
    """From `low` to `high`, and whether these two are themselves left out."""

    low: float
    high: float
    above: bool
    below: bool

    def hold(self, value: float) -> bool:
        """Whether a number is within them."""
        after = value > self.low if self.above else value >= self.low
        return after and (value < self.high if self.below else value <= self.high)


def limits_of(name: str, bounds: Mapping[Bound, Any]) -> Limits:
    """The narrowest limits of all bounds."""
    found = {
        sign: number(value, f"{sign!r} of {name} takes a number") for sign, value in bounds.items()
    }
    low = max(found.get(">", -np.inf), found.get(">=", -np.inf))
    high = min(found.get("<", np.inf), found.get("<=", np.inf))
    # Of two bounds at one number the narrower counts.
    return Limits(low, high, above=low == found.get(">"), below=high == found.get("<"))


def number(value: Any, what: str) -> float:
    """A finite number that came with a request.

    Raises:
        CadcError: it is none; the sentence begins with `what`.
    """
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value):
            return float(value)
    except (OverflowError, TypeError):  # a whole number beyond float64
        pass
    raise CadcError(f"{what}, not {value!r:.80}.")
