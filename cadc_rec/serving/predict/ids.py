"""Original ids of users and items, and the row of each.

In: a column of ids, row n being number n. Out: the row of each id that is asked for, -1 where there
is no such id; and the ids of rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cadc_rec.data.id_forms import in_form
from cadc_rec.errors import CadcError

UNKNOWN = -1
_INTEGER = re.compile(r"-?[0-9]{1,19}")


class IdMap:
    """The ids of one side.

    Args:
        side: ``user`` or ``item``, for messages.
        ids: int64, or object of ``str``; ``[n]``, none twice.
        forms: what was done to the ids of the data (`cadc_rec.data.id_forms`); an id that nobody
            has is asked for in that form, too.
        forgotten: rows that no id names.
    """

    def __init__(
        self,
        side: str,
        ids: NDArray[Any],
        forms: Sequence[str] = (),
        forgotten: Iterable[int] = (),
    ) -> None:
        self.side = side
        self.ids = ids
        self.forms = tuple(forms)
        self._row_of = {value: row for row, value in enumerate(ids.tolist())}
        for row in forgotten:
            del self._row_of[ids[row]]

    @classmethod
    def of_column(
        cls,
        side: str,
        column: pa.Array | pa.ChunkedArray,
        forms: Sequence[str] = (),
        forgotten: Iterable[int] = (),
    ) -> IdMap:
        """The map of a Parquet column of integers or strings."""
        if pa.types.is_integer(column.type):
            return cls(side, column.to_numpy().astype(np.int64), forms, forgotten)
        return cls(side, np.array(column.to_pylist(), dtype=object), forms, forgotten)

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
        kind: tuple[type, ...] = (int, np.integer) if self.are_integers else (str,)
        if self.forms:
            kind = (*kind, str)
        if "integer-like" in self.forms:
            kind = (*kind, int, np.integer, float)
        for value in values:
            # True would be found as 1.
            if isinstance(value, bool) or not (value is None or isinstance(value, kind)):
                what = "whole numbers" if self.are_integers else "strings"
                raise CadcError(f"{self.side} ids are {what} in this bundle; got {value!r:.80}.")
        rows = np.array([self._row_of.get(value, UNKNOWN) for value in values], np.int64)
        if self.forms:
            lost = np.flatnonzero(rows == UNKNOWN)
            rows[lost] = self._in_form([values[place] for place in lost.tolist()])
        return rows

    def _in_form(self, values: list[Any]) -> list[int]:
        """The row of each value in the form that the ids are in."""
        # A lone surrogate, which is no text, becomes a sign that no id has in its place.
        known = [None if v is None else str(v).encode(errors="replace").decode() for v in values]
        texts = pa.array(known, pa.string())
        found = in_form(texts, self.forms).to_pylist()
        if self.are_integers:
            found = [int(text) if text and _INTEGER.fullmatch(text) else None for text in found]
        return [self._row_of.get(value, UNKNOWN) for value in found]

    def of_rows(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Original ids of rows, of any shape; 0 or the empty string where a row is -1."""
        found = self.ids[rows]
        found[rows < 0] = 0 if self.are_integers else ""
        return found
