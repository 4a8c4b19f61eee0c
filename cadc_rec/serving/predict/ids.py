"""Original ids to rows: the first thing a request needs.

In: a column of ids, all whole numbers or all text, row n being number n. Out: the row of each id
that is asked for, -1 where nobody has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cadc_rec.errors import CadcError

UNKNOWN = -1


class IdMap:
    """The ids of one side.

    Args:
        side: ``user`` or ``item``, for messages.
        ids: int64, or object of ``str``; ``[n]``, none twice.
    """

    def __init__(self, side: str, ids: NDArray[Any]) -> None:
        self.side = side
        self.ids = ids
        self._row_of = {value: row for row, value in enumerate(ids.tolist())}

    @classmethod
    def of_column(cls, side: str, column: pa.Array | pa.ChunkedArray) -> IdMap:
        """The map of a Parquet column of integers or strings."""
        if pa.types.is_integer(column.type):
            return cls(side, column.to_numpy().astype(np.int64))
        return cls(side, np.array(column.to_pylist(), dtype=object))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def are_integers(self) -> bool:
        """Whether ids are whole numbers; else they are text."""
        return self.ids.dtype != object

    def rows(self, wanted: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
        """Rows ``[n]`` of original ids; -1 for an id that nobody has, and for None.

        Raises:
            CadcError: an id is of the wrong type.
        """
        values = wanted.tolist() if isinstance(wanted, np.ndarray) else list(wanted)
        kind = (int, np.integer) if self.are_integers else (str,)
        for value in values:
            # True would be found as 1.
            if isinstance(value, bool) or not (value is None or isinstance(value, kind)):
                what = "whole numbers" if self.are_integers else "strings"
                raise CadcError(f"{self.side} ids are {what} in this bundle; got {value!r:.80}.")
        return np.array([self._row_of.get(value, UNKNOWN) for value in values], np.int64)

    def of_rows(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Original ids of rows, of any shape; 0 or the empty string where a row is -1."""
        found = self.ids[rows]
        found[rows < 0] = 0 if self.are_integers else ""
        return found
