"""The items that a bundle leaves out of all answers, by a file of the exporter's.

In: ids of the catalogue, files of ids that are blocked, or the only ones allowed, and ids that are
sold out (`cadc_rec.export.available`). Out: rows of what is withheld.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load

from cadc_rec.data.id_forms import in_form
from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.predict.ids import IdMap

_COLUMN = "item_id"
_WHOLE = re.compile(r"[+-]?[0-9]{1,30}")


@dataclass(frozen=True)
class Withheld:
    """Files of item ids: Parquet or CSV with a column ``item_id``, or text with an id a line.

    Attributes:
        block: ids that are never recommended; None blocks nothing.
        allow: the only ids that are recommended; None allows all.
        sold_out: ids, as text, that are left out until a service is told that they are back; None
            where nobody asked.
    """

    block: Path | None = None
    allow: Path | None = None
    sold_out: tuple[str, ...] | None = None

    def read(self) -> tuple[list[str] | None, list[str] | None]:
        """The ids of both files, as text.

        Raises:
            CadcError: a file cannot be read, or has no column ``item_id`` of text or whole numbers.
        """
        block = None if self.block is None else _ids(self.block, "--block")
        return block, None if self.allow is None else _ids(self.allow, "--allow")

    def rows(self, ids: pa.ChunkedArray, forms: Sequence[str]) -> NDArray[np.int64]:
        """Rows of the withheld items, ascending.

        Args:
            ids: of the catalogue, row n being item n.
            forms: what was done to them (`cadc_rec.data.id_forms`).

        Raises:
            CadcError: see `read`; or a file names no item, or all of them are withheld.
        """
        block, allow = self.read()
        if block is None and allow is None:
            return np.zeros(0, np.int64)
        items = IdMap.of_column("item", ids, forms)
        withheld = np.zeros(len(items), np.bool_)
        if allow is not None:
            withheld[:] = True
            withheld[_rows(items, allow, self.allow)] = False
        if block is not None:
            withheld[_rows(items, block, self.block)] = True
        if withheld.all():
            raise CadcError("--block and --allow leave no item to recommend; name others.")
        return np.flatnonzero(withheld)

    def sold_out_rows(self, ids: pa.ChunkedArray, forms: Sequence[str]) -> NDArray[np.int64]:
        """Rows of the items that are sold out, ascending; see `rows`."""
        if not self.sold_out:
            return np.zeros(0, np.int64)
        items = IdMap.of_column("item", ids, forms)
        rows = items.rows(_as_ids(list(self.sold_out), items, Path("--available")))
        return np.unique(rows[rows >= 0])

    def is_of(self, bundle: Path, forms: Sequence[str]) -> bool:
        """Whether a bundle leaves out these items and no others.

        Args:
            bundle: its folder.
            forms: as for `rows`.

        Raises:
            CadcError: see `rows`.
        """
        file = bundle / layout.WITHHELD
        there = load(file.read_bytes()) if file.exists() else {}
        ids, none = pq.read_table(bundle / layout.ITEMS, columns=[_COLUMN])[_COLUMN], np.zeros(0)
        wanted = {"rows": self.rows(ids, forms), "sold_out": self.sold_out_rows(ids, forms)}
        return all(np.array_equal(rows, there.get(name, none)) for name, rows in wanted.items())


def require_lists(before: Path, withheld: Withheld) -> None:
    """Refuse a bundle without lists in the place of one that was made with some.

    Args:
        before: the older bundle's folder, which need not be there.
        withheld: the lists of the new one.

    Raises:
        CadcError: there are none.
    """
    if withheld == Withheld() and (before / layout.WITHHELD).exists():
        raise CadcError(
            f"{before}: leaves items out by --block, --allow or --available; give them again, or "
            "--block with an empty file to leave none out."
        )


def _ids(file: Path, option: str) -> list[str]:
    """The ids of a file as text, as they stand there: a leading zero is part of an id."""
    kind = file.suffix.lower()
    try:
        if kind == ".parquet":
            table = pq.read_table(file)
        elif kind == ".csv":
            as_text = pyarrow.csv.ConvertOptions(column_types={_COLUMN: pa.string()})
            table = pyarrow.csv.read_csv(file, convert_options=as_text)
        else:
            lines = file.read_text("utf-8-sig").splitlines()
            return [line.strip() for line in lines if line.strip()]
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        said = str(error).splitlines()[0]
        raise CadcError(f"{option} {file}: cannot be read ({said:.200}).") from None
    if table.column_names.count(_COLUMN) != 1:
        raise CadcError(f"{option} {file}: has no column {_COLUMN}; name one column so.")
    column = table[_COLUMN]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (_is_text(column.type) or pa.types.is_integer(column.type)):
        raise CadcError(
            f"{option} {file}: {_COLUMN} is of type {column.type}; store ids as whole numbers or "
            "text."
        )
    found: list[str] = [one for one in column.cast(pa.string()).to_pylist() if one]
    return found


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)


def _rows(items: IdMap, ids: list[str], file: Path | None) -> NDArray[np.int64]:
    """The rows of a file's ids."""
    rows = items.rows(_as_ids(ids, items, file))
    lost = np.flatnonzero(rows < 0).tolist()
    if ids and len(lost) == len(ids):
        raise CadcError(f"{file}: none of its {len(ids):,} ids is an item's; correct the file.")
    if lost:
        some = ", ".join(f"{ids[place]:.80}" for place in lost[:3])
        log.warning(
            "%s: %s of its %s ids are no item's, such as %s",
            file, f"{len(lost):,}", f"{len(ids):,}", some,
        )  # fmt: skip
    return rows[rows >= 0]


def _as_ids(ids: list[str], items: IdMap, file: Path | None) -> list[Any]:
    """The ids as they are in this catalogue: text, or whole numbers."""
    if not items.are_integers:
        return ids
    found: list[Any] = []
    for told, text in zip(ids, in_form(pa.array(ids, pa.string()), items.forms), strict=True):
        if not _WHOLE.fullmatch(str(text)):
            raise CadcError(f"{file}: {told!r:.80} is no item id; ids are whole numbers.")
        found.append(int(str(text)))
    return found
