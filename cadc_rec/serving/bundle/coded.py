"""A bundle's file by what the reader of a delta has: its old version, and files made before it.

In: two bundles, of which the reader's second one holds only what was made so far. Out: a patch of
a file and how it is to be read, and from these the file.

Bytes are compared by Zstandard (`cadc_rec.serving.bundle.patch`): with the old file, or with the
lists that the reader counts. Tables are cut out before, row by row: one that stands in a file
before it is only named, and of any other the rows that differ are told by how far they are from the
old or the foreseen ones (`cadc_rec.serving.bundle.rows`), popularity apart
(`cadc_rec.serving.bundle.apart`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.settled import Settled
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.apart import APART, columns, decode_apart, encode_apart
from cadc_rec.serving.bundle.arrays import Span, entries_of, floats_in
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.bundle.foreseen import VECTORS, Foreseen
from cadc_rec.serving.bundle.patch import BadPatchError, apply_patch, make_patch
from cadc_rec.serving.bundle.rows import Foresee, decode_rows, encode_rows

_FIRST = (
    layout.MODEL,
    layout.KNOWN,
    layout.ITEM,
    layout.QUERY,
    layout.ITEM_VECTORS,
    layout.NEWCOMER,
    layout.USER_VECTORS,
)
_SHARED = (layout.ITEM, layout.QUERY, layout.ITEM_VECTORS)
"""Files whose tables stand in others, too."""
_TEXT = (".json", ".md")
_LAYER = 1 << 20  # bytes; larger tables stand in few files, and there they are named
_LARGEST = 5  # bytes of a code for one of its table: each itself, its row's state, and being told
_LISTS = "lists"
_ALIKE = 0.9  # share of the bytes of some rows by which a table of bytes is known again


def in_order(names: Sequence[str]) -> list[str]:
    """A bundle's files, each after those that it is made of."""
    place = {name: number for number, name in enumerate(_FIRST)}
    return sorted(names, key=lambda name: (place.get(name, len(place)), name))


class Coder:
    """What makes patches of files, and files of patches.

    Args:
        base: the bundle that the reader has.
        target: the next one. The writer has all of it, the reader the files `in_order` before.
    """

    def __init__(self, base: Bundle, target: Bundle) -> None:
        self.base, self.target = base, target
        self.foreseen = Foreseen(target)
        self._tables: dict[str, dict[str, Span]] = {}
        self._owned: dict[str, NDArray[np.int64]] = {}

    def patch(self, name: str) -> tuple[bytes, dict[str, Any]]:
        """The patch of a file of `target` that differs, and what else `file` is to be told."""
        old, new = self._old(name), self.target.read(name)
        if name == layout.LISTS and (counted := self._counted(old, new)) is not None:
            return counted
        known = old + self._known(name)
        plain = make_patch(known, new)
        tables, codes = self._coded(name, old, new)
        if not tables:
            return plain, {}
        ends = [0, *(end for span in map(_span, tables) for end in (span.at, span.end)), len(new)]
        rest = b"".join(new[start:end] for start, end in list(pairwise(ends))[::2])
        payload = rest + b"".join(codes)
        coded = make_patch(known, payload)
        if len(coded) >= len(plain):
            return plain, {}
        return coded, {"tables": tables, "payload": len(payload)}

    def file(self, name: str, patch: bytes, told: Mapping[str, Any], size: int) -> bytes:
        """The file of `target`, which is not compared with anything yet.

        Args:
            name: its name.
            patch: from `patch`.
            told: likewise.
            size: its bytes.

        Raises:
            BadPatchError: they do not belong to these bundles.
        """
        old = self._old(name)
        tables = told.get("tables")
        try:
            if told.get("foreseen") == _LISTS:
                return self._lists_again(patch, int(told["settled"]), size)
            known = old + self._known(name)
            if not tables:
                return apply_patch(known, patch, size)
            length = int(told["payload"])
            if not 0 <= length <= _LARGEST * (size + len(tables)):
                raise BadPatchError("payload")
            payload = apply_patch(known, patch, length)
            return self._assembled(name, old, payload, tables, size)
        except BadPatchError:
            raise
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            raise BadPatchError(str(error)) from error

    def _counted(self, old: bytes, new: bytes) -> tuple[bytes, dict[str, Any]] | None:
        """The patch of lists that the reader counts, unless one of the old lists is smaller."""
        settled = Settled()
        try:
            foreseen = self.foreseen.lists(settled)
        except (ValueError, TypeError, LookupError, AttributeError):
            return None  # a bundle whose parts do not fit is not this one's to mend
        if foreseen is None:
            return None
        code, patch = settled.code(), make_patch(foreseen, new)
        if foreseen != new and len(code) + len(patch) >= len(make_patch(old, new)):
            return None
        return code + patch, {"foreseen": _LISTS, "settled": len(code)}

    def _lists_again(self, patch: bytes, code: int, size: int) -> bytes:
        if not 0 <= code <= len(patch):
            raise BadPatchError("settled")
        foreseen = self.foreseen.lists(Settled.of_code(patch[:code]))
        if foreseen is None:
            raise BadPatchError("lists")
        return apply_patch(foreseen, patch[code:], size)

    def _assembled(self, name: str, old: bytes, payload: bytes, tables: Any, size: int) -> bytes:
        spans = [_span(table) for table in tables]
        at, made = 0, []  # places in the payload; pieces of the file
        code_at = len(payload) - sum(int(table["code"]) for table in tables)
        olds, end = self._olds(name, old), 0
        for table, span in zip(tables, spans, strict=True):
            gap = span.at - end
            if gap < 0 or at + gap > code_at or span.end > size:
                raise BadPatchError("tables")
            made.append(payload[at : at + gap])
            at, end = at + gap, span.end
            code = payload[code_at : code_at + int(table["code"])]
            code_at += len(code)
            made.append(self._table(table, span, code, old, olds))
        made.append(payload[at : at + size - end])
        return b"".join(made)

    def _table(
        self,
        table: Mapping[str, Any],
        span: Span,
        code: bytes,
        old: bytes,
        olds: Mapping[str, Span],
    ) -> bytes:
        if "stands_in" in table:
            file, of = table["stands_in"]
            rows = self._tables_of(file)[of].of(self.target.read(file))
            rows = rows[: span.rows, : span.width]
            if rows.shape != (span.rows, span.width):
                raise BadPatchError("tables")
            return rows.tobytes()
        foresee, floats = self._foresee(table.get("foreseen"))
        if not floats:
            before = _entry(olds, table["name"], span.width).of(old)
            return decode_rows(code, span.rows, span.width, before, foresee, floats).tobytes()
        before = _rows(olds, table["name"], old)
        return decode_apart(code, table, span.rows, span.width, before, foresee).tobytes()

    def _coded(self, name: str, old: bytes, new: bytes) -> tuple[list[dict[str, Any]], list[bytes]]:
        """The tables of a file in the order of their places, and the code of each."""
        olds, tables, codes = self._olds(name, old), [], []
        for of, span in floats_in(name, new).items():
            rows = span.of(new)
            place = self._place_of(rows, name)
            entry = {"name": of, "at": span.at, "rows": span.rows, "width": span.width}
            if place is not None:
                tables.append({**entry, "stands_in": list(place), "code": 0})
                codes.append(b"")
                continue
            of_old, owned = _rows(olds, of, old), self._other_owners(name)
            found = []
            for apart in APART if name == layout.ITEM_VECTORS else APART[:1]:
                if apart < span.width:
                    found.append(encode_apart(rows, of_old, apart, owned))
            way = f"vectors of {VECTORS[name]}" if name in VECTORS else None
            foresee, floats = self._foresee(way)
            if foresee is not None and foresee(_first(1))[0].shape[1] == span.width:
                code = encode_rows(rows, columns(of_old, span.width)[0], foresee, floats, owned)
                found.append((code, {"foreseen": way}))
            code, told = min(found, key=lambda one: len(make_patch(b"", one[0])))
            tables.append(entry | told | {"code": len(code)})
            codes.append(code)
        if name.endswith(".pt"):
            self._bytes_in(old, new, olds, tables, codes)
        return tables, codes

    def _bytes_in(
        self,
        old: bytes,
        new: bytes,
        olds: Mapping[str, Span],
        tables: list[dict[str, Any]],
        codes: list[bytes],
    ) -> None:
        """The tables of bytes of a scripted module that are a tower's, rounded."""
        foresees = {side: self.foreseen.rounded(side) for side in ("user", "item")}
        for of, (at, size) in sorted(entries_of(new).items(), key=lambda one: one[1]):
            for side, foresee in foresees.items():
                if foresee is None:
                    continue
                rows, width = self.foreseen.width_of(side)
                if not rows * width <= size < rows * width + 256:  # it is padded
                    continue
                now = Span(at, rows, width).of(new)
                if (now[:100] == foresee(_first(min(rows, 100)))[0]).mean() < _ALIKE:
                    continue
                before = _entry(olds, of, width).of(old)
                owned = self._rows_of_others(side)
                code = encode_rows(now, before, foresee, floats=False, owned=owned)
                entry = {"name": of, "at": at, "rows": rows, "width": width, "code": len(code)}
                tables.append({**entry, "foreseen": f"bytes of {side}"})
                codes.append(code)
                break

    def _other_owners(self, name: str) -> NDArray[np.int64]:
        """Rows of a file's tables that were another's in `base`.

        Of whom a program's table is its name does not say for sure: there it is the rows of both.
        """
        if name in VECTORS:
            return self._rows_of_others(VECTORS[name])
        return np.union1d(self._rows_of_others("user"), self._rows_of_others("item"))

    def _rows_of_others(self, side: str) -> NDArray[np.int64]:
        """Rows of ``user`` or ``item`` whose id is another one in `target`; the writer asks."""
        if side not in self._owned:
            file = layout.USERS if side == "user" else layout.ITEMS
            was, now = (
                one.table(file)[f"{side}_id"].to_pylist() for one in (self.base, self.target)
            )
            same = zip(was, now, strict=False)
            differ = [row for row, (before, after) in enumerate(same) if before != after]
            self._owned[side] = np.array(differ, np.int64)
        return self._owned[side]

    def _foresee(self, way: str | None) -> tuple[Foresee | None, bool]:
        """The function that is meant, and whether the rows are of floats.

        Raises:
            BadPatchError: there is none of that name.
        """
        if way is None:
            return None, True
        what, _, side = way.partition(" of ")
        if side not in ("user", "item") or what not in ("vectors", "bytes"):
            raise BadPatchError(way)
        if what == "vectors":
            return self.foreseen.vectors(side), True
        return self.foreseen.rounded(side), False

    def _olds(self, name: str, old: bytes) -> dict[str, Span]:
        """The tables of an old file by name; of a scripted module, its entries as bytes."""
        if name.endswith(".pt"):
            return (
                {of: Span(at, size, 1) for of, (at, size) in entries_of(old).items()} if old else {}
            )
        return floats_in(name, old)

    def _place_of(self, rows: NDArray[np.uint8], name: str) -> tuple[str, str] | None:
        """Where rows ``[n, width]`` stand in a file before this one: the first of its rows.

        These may have more columns: the file, and the table's name in it.
        """
        for file in _SHARED:
            if file == name:
                break
            if self.target.has(file):
                contents = self.target.read(file)
                for of, span in self._tables_of(file).items():
                    if span.rows >= len(rows) and span.width >= rows.shape[1]:
                        there = span.of(contents)[: len(rows), : rows.shape[1]]
                        if np.array_equal(there[0], rows[0]) and np.array_equal(there, rows):
                            return file, of
        return None

    def _tables_of(self, file: str) -> dict[str, Span]:
        if file not in _SHARED:
            raise BadPatchError(file)
        if file not in self._tables:
            self._tables[file] = floats_in(file, self.target.read(file))
        return self._tables[file]

    def _old(self, name: str) -> bytes:
        return self.base.read(name) if self.base.has(name) else b""

    def _known(self, name: str) -> bytes:
        """What a patch may refer to beside the old file: item vectors, and the towers' layers."""
        if name.endswith(_TEXT) or name in _FIRST:
            return b""
        found = []
        for file in _SHARED:
            if self.target.has(file):
                contents = self.target.read(file)
                found += [
                    contents[span.at : span.end]
                    for span in self._tables_of(file).values()
                    if file == layout.ITEM_VECTORS or span.rows * span.width < _LAYER
                ]
        return b"".join(found)


def _rows(olds: Mapping[str, Span], name: str, old: bytes) -> NDArray[np.uint8]:
    """The rows of the old table of this name; none where there is no such table."""
    return olds[name].of(old) if name in olds else np.zeros((0, 0), np.uint8)


def _entry(olds: Mapping[str, Span], name: str, width: int) -> Span:
    """The bytes of the old entry of this name as rows; none where there is no such entry."""
    old = olds.get(name, Span(0, 0, 1))
    return Span(old.at, old.rows // width, width)


def _span(table: Mapping[str, Any]) -> Span:
    """Where a table lies, as a manifest says.

    Raises:
        BadPatchError: it says nothing that can be.
    """
    at, rows, width = (int(table[key]) for key in ("at", "rows", "width"))
    if at < 0 or rows < 0 or width <= 0 or int(table["code"]) < 0:
        raise BadPatchError("tables")
    return Span(at, rows, width)


def _first(count: int) -> NDArray[np.int64]:
    return np.arange(count)
