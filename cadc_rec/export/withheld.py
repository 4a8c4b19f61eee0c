"""The items that a bundle leaves out of all answers, by a file of the exporter's.

In: ids of the catalogue, and files of ids that are blocked, or the only ones allowed. Out: rows of
what is withheld.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.serving.predict.ids import IdMap

_COLUMN = "item_id"


@dataclass(frozen=True)
class Withheld:
    """Files of item ids: Parquet or CSV with a column ``item_id``, or text with an id a line.

    Attributes:
        block: ids that are never recommended; None blocks nothing.
        allow: the only ids that are recommended; None allows all.
    """

    block: Path | None = None
    allow: Path | None = None

    def read(self) -> tuple[list[Any] | None, list[Any] | None]:
        """The ids of both files.

        Raises:
            CadcError: a file cannot be read, or has no column ``item_id``.
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


def _ids(file: Path, option: str) -> list[Any]:
    try:
        if file.suffix == ".parquet":
            table = pq.read_table(file)
        elif file.suffix == ".csv":
            table = pyarrow.csv.read_csv(file)
        else:
            lines = file.read_text("utf-8").splitlines()
            return [line.strip() for line in lines if line.strip()]
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        said = str(error).splitlines()[0]
        raise CadcError(f"{option} {file}: cannot be read ({said:.200}).") from None
    if _COLUMN not in table.column_names:
        raise CadcError(f"{option} {file}: has no column {_COLUMN}; name the column so.")
    found: list[Any] = table[_COLUMN].drop_null().to_pylist()
    return found


def _rows(items: IdMap, ids: list[Any], file: Path | None) -> NDArray[np.int64]:
    """The rows of a file's ids."""
    rows = items.rows([_as_an_id(value, items, file) for value in ids])
    lost = int((rows < 0).sum())
    if ids and lost == len(ids):
        raise CadcError(f"{file}: none of its {len(ids):,} ids is an item's; correct the file.")
    if lost:
        log.warning("%s: %s of its %s ids are no item's", file, f"{lost:,}", f"{len(ids):,}")
    return rows[rows >= 0]


def _as_an_id(value: Any, items: IdMap, file: Path | None) -> Any:
    """The value as ids are in this catalogue: text, or whole numbers."""
    if not items.are_integers:
        return str(value)
    try:
        return int(value)
    except ValueError:
        raise CadcError(f"{file}: {value!r:.80} is no item id; ids are whole numbers.") from None
