"""float32 numbers that come out alike on every machine, of a calculation in double precision.

The last bits of a double depend on the processor and its libraries. Rounded to float32 they vanish,
unless the number lies half-way between two floats: these few are told. In: numbers in double
precision, in an order that is the same everywhere. Out: the same as float32, and a code of those
that have to be told; a second reader with the code gets the first one's numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Rounded = Callable[[NDArray[np.float64]], NDArray[np.float32]]
"""Makes float32 numbers of doubles that come in the same order everywhere."""
_ERROR = 1e-11
"""Of a sum of positive numbers, beside itself; that of a million in another order is less."""


def to_float32(exact: NDArray[np.float64]) -> NDArray[np.float32]:
    """The nearest floats, where nobody else has to come to the same."""
    return exact.astype(np.float32)


def half_way(exact: NDArray[np.float64], error: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which numbers might be rounded to another float32 if they were off by `error`.

    Args:
        exact: of any shape; infinite ones and NaN might, too.
        error: of each, or of whatever is broadcast to them.
    """
    with np.errstate(all="ignore"):
        low, high = (exact - error).astype(np.float32), (exact + error).astype(np.float32)
    found: NDArray[np.bool_] = (low != high) | ~np.isfinite(exact)
    return found


class Settled:
    """Rounds numbers as they come, and tells or is told those that lie half-way.

    Args:
        places: of the numbers that are told, ascending, counted over all calls.
        values: of these, float32.
    """

    def __init__(
        self, places: NDArray[np.int64] | None = None, values: NDArray[np.float32] | None = None
    ) -> None:
        self._told = None if places is None or values is None else (places, values)
        self._places: list[NDArray[np.int64]] = []
        self._values: list[NDArray[np.float32]] = []
        self._seen = 0

    def __call__(self, exact: NDArray[np.float64]) -> NDArray[np.float32]:
        """The numbers ``[n]`` as float32, which follow those of the calls before."""
        found = exact.astype(np.float32)
        first, self._seen = self._seen, self._seen + len(exact)
        if self._told is not None:
            places, values = self._told
            some = slice(*np.searchsorted(places, [first, self._seen]))
            found[places[some] - first] = values[some]
            return found
        unsure = np.flatnonzero(half_way(exact, _ERROR * np.abs(exact)))
        self._places.append(unsure + first)
        self._values.append(found[unsure])
        return found

    def code(self) -> bytes:
        """What another reader has to be told, of all calls so far."""
        places = np.concatenate([np.zeros(0, np.int64), *self._places])
        values = np.concatenate([np.zeros(0, np.float32), *self._values])
        return places.astype("<i8").tobytes() + values.astype("<f4").tobytes()

    @classmethod
    def of_code(cls, code: bytes) -> Settled:
        """What gives the numbers of the one whose `code` it is.

        Raises:
            ValueError: the code is none.
        """
        count, rest = divmod(len(code), 12)
        places = np.frombuffer(code, "<i8", count).astype(np.int64)
        if rest or (np.diff(places, prepend=-1) <= 0).any():
            raise ValueError("a code of numbers that is none")
        return cls(places, np.frombuffer(code, "<f4", count, 8 * count).astype(np.float32))
