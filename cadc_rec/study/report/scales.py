"""From values to places on a drawing, and the round numbers an axis shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_TICKS = 6


@dataclass(frozen=True)
class Axis:
    """What an axis says; `ticks` are chosen where none are given."""

    title: str
    log: bool = False
    ticks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Scale:
    """An axis laid from `start` to `end`; values from `low` to `high`."""

    axis: Axis
    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(
        cls, axis: Axis, values: Sequence[float], start: float, end: float, pad: float = 0.06
    ) -> Scale:
        """A scale that shows all values with some room on both sides.

        Args:
            axis: logarithmic ones take positive values.
            values: at least one.
            start: place of the lowest.
            end: place of the highest.
            pad: room on each side, as a part of the range.
        """
        values = [*values, *axis.ticks]
        low, high = min(values), max(values)
        if axis.log:
            # Over less than a factor of 2 small differences would look large.
            room = max((high / low) ** pad, (2.0 * low / high) ** 0.5)
            return cls(axis, low / room, high * room, start, end)
        room = pad * (high - low) or (pad and (abs(high) or 1.0))
        # A range that reaches near to 0 is easier to read with 0 in it.
        floor = 0.0 if 0 <= low < 0.5 * high else low - room
        return cls(axis, floor, high + room if high + room > floor else floor + 1.0, start, end)

    def __call__(self, value: float) -> float:
        """The place of a value."""
        low, high = self.low, self.high
        if self.axis.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """Round values within the scale, and their labels."""
        values: Sequence[float] = self.axis.ticks
        if not values:
            values = self._powers() if self.axis.log else self._steps()
        return [(value, f"{value:,.6g}") for value in values]

    def _steps(self) -> list[float]:
        step = _round_step((self.high - self.low) / _TICKS)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [step * n for n in range(first, last + 1)]

    def _powers(self) -> list[float]:
        """1, 2 and 5 times powers of ten, or fewer of them, or steps where there is one at most."""
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1, 2, 5), (1, 3), (1,)):
            values = [f * 10.0**e for e in exponents for f in factors]
            values = [value for value in values if self.low <= value <= self.high]
            if len(values) <= _TICKS + 1:
                break
        return values if len(values) > 1 else self._steps()


def _round_step(least: float) -> float:
    """The smallest of 1, 2 or 5 times a power of ten that is no less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
