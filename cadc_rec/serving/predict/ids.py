"""Original ids of users and items, and the row of each.

In: a column of ids, row n being number n; or arrays that were made of it at export, and are mapped
from the bundle. Out: the row of each id that is asked for, -1 where there is no such id; and the
ids of rows. Nothing here is a Python object an id: all of it may lie in a file that processes
share.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cadc_rec.data.id_forms import in_form
from cadc_rec.errors import CadcError
from cadc_rec.serving.predict.texts import Texts

UNKNOWN = -1
_INTEGER = re.compile(r"-?[0-9]{1,19}")
_LEAST, _MOST = -(2**63), 2**63 - 1


class IdMap:
    """The ids of one side.

    Args:
        side: ``user`` or ``item``, for messages.
        ids: int64, or object of ``str``, or `Texts`; ``[n]``, none twice.
        forms: what was done to the ids of the data (`cadc_rec.data.id_forms`); an id that nobody
            has is asked for in that form, too.
        forgotten: rows that no id names.
        order: from `id_arrays`; None makes it.
    """

    def __init__(
        self,
        side: str,
        ids: NDArray[Any] | Texts,
        forms: Sequence[str] = (),
        forgotten: Iterable[int] = (),
        order: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self.side = side
        if not isinstance(ids, Texts) and ids.dtype == object:
            ids = Texts.of(ids.tolist())
        self.ids = ids
        self.forms = tuple(forms)
        order = _order(ids) if order is None else order
        # Numbers that ascend need no second copy.
        self._keys = order["keys"] if "keys" in order or isinstance(ids, Texts) else ids
        self._rows = order.get("rows")
        self._forgotten = np.unique(np.fromiter(forgotten, np.int64))

    @classmethod
    def of_column(
        cls,
        side: str,
        column: pa.Array | pa.ChunkedArray,
        forms: Sequence[str] = (),
        forgotten: Iterable[int] = (),
    ) -> IdMap:
        """The map of a Parquet column of integers or strings."""
        return cls(side, _of_column(column), forms, forgotten)

    @classmethod
    def of_arrays(
        cls,
        side: str,
        arrays: Mapping[str, NDArray[Any]],
        forms: Sequence[str] = (),
        forgotten: Iterable[int] = (),
    ) -> IdMap:
        """The map of what `id_arrays` gave, which may be mapped from a file.

        Raises:
            CadcError: the arrays do not fit each other.
        """
        try:
            ids = arrays["ids"] if "ids" in arrays else Texts.of_arrays(arrays, "id")
            found = cls(side, ids, forms, forgotten, arrays)
        except KeyError as error:
            raise CadcError(f"the arrays of {side} ids lack {error}; export them anew.") from None
        keys, rows = found._keys, found._rows
        fits = len(keys) == len(ids) and bool((keys[1:] >= keys[:-1]).all())
        if fits and rows is not None:
            fits = len(rows) == len(ids) and (
                not len(rows) or bool(rows.min() >= 0 and rows.max() < len(ids))
            )
        texts = not isinstance(ids, Texts) or (ids.is_whole and rows is not None)
        if not (fits and texts):
            raise CadcError(f"the arrays of {side} ids do not fit each other; export them anew.")
        return found

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest id; 0 where ids are whole numbers."""
        return self.ids.longest if isinstance(self.ids, Texts) else 0

    @property
    def are_integers(self) -> bool:
        """Whether ids are whole numbers; else they are text."""
        return not isinstance(self.ids, Texts)

    def rows(self, wanted: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
        """Rows ``[n]`` of original ids; -1 for an id that nobody has, and for None.

        Raises:
            CadcError: an id is of the wrong type.
        """
        values = wanted.tolist() if isinstance(wanted, np.ndarray) else list(wanted)
        kind = self._kind
        for value in values:
            if isinstance(value, bool) or not (value is None or isinstance(value, kind)):
                raise self._of_wrong_type(value)
        rows = self._found(values)
        if self.forms:
            lost = np.flatnonzero(rows == UNKNOWN)
            if len(lost):
                rows[lost] = self._in_form([values[place] for place in lost.tolist()])
        return rows

    @property
    def _kind(self) -> tuple[type, ...]:
        """Types of ids, but bool, which is an int: True would be found as 1."""
        kind: tuple[type, ...] = (int, np.integer) if self.are_integers else (str,)
        if self.forms:
            kind = (*kind, str)
        if "integer-like" in self.forms:
            kind = (*kind, int, np.integer, float)
        return kind

    def _of_wrong_type(self, value: Any) -> CadcError:
        what = "whole numbers" if self.are_integers else "strings"
        return CadcError(f"{self.side} ids are {what} in this bundle; got {value!r:.80}.")

    def texts(self, values: Sequence[Any]) -> list[str | None]:
        """Values as text, in the form that the ids are in; None stays None."""
        if not self.forms:
            return [None if value is None else str(value) for value in values]
        # A lone surrogate, which is no text, becomes a sign that no id has in its place.
        known = [None if v is None else str(v).encode(errors="replace").decode() for v in values]
        found: list[str | None] = in_form(pa.array(known, pa.string()), self.forms).to_pylist()
        return found

    def in_form(self, value: Any) -> int | str | None:
        """An id as the bundle would write it; None of what no id can be.

        Raises:
            CadcError: it is of the wrong type.
        """
        if isinstance(value, bool) or not (value is None or isinstance(value, self._kind)):
            raise self._of_wrong_type(value)
        if self.forms:
            (text,) = self.texts([value])
            if not self.are_integers:
                return text
            value = int(text) if text and _INTEGER.fullmatch(text) else None
        if self.are_integers:
            return int(value) if value is not None and _LEAST <= value <= _MOST else None
        # A lone surrogate is no text, and no journal could hold it.
        return None if value is None else str(value).encode(errors="replace").decode()

    def _in_form(self, values: list[Any]) -> NDArray[np.int64]:
        """The row of each value in the form that the ids are in."""
        found: list[Any] = self.texts(values)
        if self.are_integers:
            found = [int(text) if text and _INTEGER.fullmatch(text) else None for text in found]
        return self._found(found)

    def _found(self, values: list[Any]) -> NDArray[np.int64]:
        """The row of each value as it is; -1 for one that is no id."""
        rows = self._of_numbers(values) if self.are_integers else self._of_texts(values)
        if len(self._forgotten):
            rows[np.isin(rows, self._forgotten)] = UNKNOWN
        return rows

    def _of_numbers(self, values: list[Any]) -> NDArray[np.int64]:
        # Whole numbers beyond 64 bits, floats, texts and None are nobody as they stand.
        mine = [isinstance(v, int | np.integer) and _LEAST <= v <= _MOST for v in values]
        asked = np.array([v if it else 0 for v, it in zip(values, mine, strict=True)], np.int64)
        if not len(self.ids):
            return np.full(len(values), UNKNOWN, np.int64)
        keys = self._keys
        places = np.searchsorted(keys, asked)
        places[places == len(keys)] = 0
        hits = np.array(mine, np.bool_) & (keys[places] == asked)
        rows = places if self._rows is None else self._rows[places].astype(np.int64)
        rows[~hits] = UNKNOWN
        return rows

    def _of_texts(self, values: list[Any]) -> NDArray[np.int64]:
        assert isinstance(self.ids, Texts)
        assert self._rows is not None
        rows = np.full(len(values), UNKNOWN, np.int64)
        asked = [n for n, value in enumerate(values) if isinstance(value, str)]
        encoded = [values[n].encode("utf-8", "surrogatepass") for n in asked]
        keys = np.fromiter(map(_hash, encoded), np.uint64, len(encoded))
        start = np.searchsorted(self._keys, keys).tolist()
        stop = np.searchsorted(self._keys, keys, "right").tolist()
        for n, text, first, last in zip(asked, encoded, start, stop, strict=True):
            for row in self._rows[first:last].tolist():  # several may share a hash
                if self.ids.encoded(row) == text:
                    rows[n] = row
                    break
        return rows

    def of_rows(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Original ids of rows, of any shape; 0 or the empty string where a row is -1."""
        if isinstance(self.ids, Texts):
            return self.ids.at(rows)
        found: NDArray[Any] = self.ids[rows]
        found[rows < 0] = 0
        return found


class AndMore(IdMap):
    """The ids of a bundle, without some of them and with others behind.

    Args:
        first: of the bundle.
        more: ids of the rows behind, in the form of the others.
        named: which of these are items now, by their places in `more`.
        removed: rows of the bundle that no id names.
    """

    def __init__(
        self, first: IdMap, more: Sequence[Any], named: Iterable[int], removed: NDArray[np.int64]
    ) -> None:
        self.side, self.ids, self.forms = first.side, first.ids, first.forms
        self._keys, self._rows = first._keys, first._rows
        self._first, self._forgotten = first, np.union1d(first._forgotten, removed)
        self._row_of = {more[place]: len(first) + place for place in named}
        self._more = np.array([*more, None], dtype=object)[:-1]  # of equal lengths, too

    def __len__(self) -> int:
        return len(self.ids) + len(self._more)

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest id; 0 where ids are whole numbers."""
        if self.are_integers:
            return 0
        lengths = [len(one.encode("utf-8", "surrogatepass")) for one in self._row_of]
        return max([self._first.longest, *lengths])

    def _found(self, values: list[Any]) -> NDArray[np.int64]:
        rows = super()._found(values)
        for place in np.flatnonzero(rows == UNKNOWN).tolist():
            value = values[place]
            if value is not None and not isinstance(value, float):
                rows[place] = self._row_of.get(value, UNKNOWN)
        return rows

    def of_rows(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Original ids of rows, of any shape; 0 or the empty string where a row is -1."""
        behind = rows >= len(self.ids)
        if not behind.any():
            return super().of_rows(rows)
        found = super().of_rows(np.where(behind, UNKNOWN, rows))
        found[behind] = self._more[rows[behind] - len(self.ids)]
        return found


def id_arrays(column: pa.Array | pa.ChunkedArray) -> dict[str, NDArray[Any]]:
    """What `IdMap.of_arrays` takes, of a Parquet column of integers or strings."""
    ids = _of_column(column)
    if isinstance(ids, Texts):
        return {**ids.arrays("id"), **_order(ids)}
    return {"ids": ids, **_order(ids)}


def _of_column(column: pa.Array | pa.ChunkedArray) -> NDArray[np.int64] | Texts:
    if pa.types.is_integer(column.type):
        found: NDArray[np.int64] = column.to_numpy().astype(np.int64)
        return found
    return Texts.of(column.to_pylist())


def _order(ids: NDArray[Any] | Texts) -> dict[str, NDArray[Any]]:
    """Keys that ascend and the row of each; nothing where numbers ascend by themselves."""
    if isinstance(ids, Texts):
        keys = np.array([_hash(ids.encoded(row)) for row in range(len(ids))], np.uint64)
    elif (ids[1:] > ids[:-1]).all():
        return {}
    else:
        keys = ids
    rows = np.argsort(keys, kind="stable")
    kind = np.int32 if len(ids) < 2**31 else np.int64
    return {"keys": keys[rows], "rows": rows.astype(kind)}


def _hash(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
