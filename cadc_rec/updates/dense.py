"""Vectors and numbers of users and items after a day (`cadc_rec.data.dense`).

In: the tables before, the day's rows. Out: tables with a row for everybody there is now. Who is
known keeps what was known; whom the day's table describes, new or known, has what it says there.
Numbers keep their scales, as buckets keep their edges, so that towers read them as before.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cadc_rec.config.dense import TextConfig
from cadc_rec.data.dense import DESCRIBED, FOLDER, coded_dense, open_table
from cadc_rec.data.prepare.new_rows import with_encoded
from cadc_rec.data.streams import one_array

_ROWS = 65_536  # copied at once


def described_dense(dataset: Path) -> dict[str, list[dict[str, Any]]]:
    """Each side's tables; none of a dataset without vectors and numbers."""
    file = dataset / DESCRIBED
    found: dict[str, list[dict[str, Any]]] = {}
    return json.loads(file.read_text("utf-8")) if file.is_file() else found


def write_grown_dense(
    text: TextConfig,
    side: str,
    described: Sequence[dict[str, Any]],
    before: tuple[Path, pa.Array],
    day: pa.Table | None,
    after: tuple[Path, pa.Array],
) -> list[dict[str, Any]]:
    """Write one side's tables; what describes them now.

    Args:
        text: how columns of text are encoded.
        side: ``user`` or ``item``.
        described: its entries of ``dense.json``, as they were.
        before: the dataset's folder, and its ids by row number.
        day: ``{side}_id`` and the columns as the day's table gives them; None without such a table.
        after: the folder to write to, and the ids there will be.

    Raises:
        CadcError: the day's vectors have another width.
    """
    (old_folder, old_ids), (folder, ids) = before, after
    if not described:
        return []
    kept = _places(ids, old_ids)
    came, place = None, np.full(len(ids), -1)
    if day is not None:
        rows = with_encoded(text, day, [entry["name"] for entry in described])
        came = coded_dense(rows, described)
        place = _places(ids, one_array(day[f"{side}_id"]).cast(ids.type))
    now = []
    for number, entry in enumerate(described):
        name = f"{side}_{entry['name']}.npy"
        old = np.load(old_folder / FOLDER / name, mmap_mode="r")
        half = entry["precision"] == "float16"
        table = open_table(folder / FOLDER / name, len(ids), entry["table_width"], half)
        known = 0
        for first in range(0, len(ids), _ROWS):
            some = slice(first, min(first + _ROWS, len(ids)))
            block = np.zeros((some.stop - some.start, old.shape[1]), old.dtype)
            stays, new = kept[some] >= 0, place[some] >= 0
            block[stays] = old[kept[some][stays]]
            if came is not None:
                block[new] = came[number].values[place[some][new]]
            table[some] = block
            known += int(block.any(1).sum())
        assert isinstance(table, np.memmap)
        table.flush()
        counts = f"{side}s_without_vector"
        now.append({**entry, counts: len(ids) - known} if counts in entry else dict(entry))
    return now


def _places(ids: pa.Array, among: pa.Array) -> np.ndarray:
    """The place of each of `ids`; -1 where it is not there."""
    found = pc.index_in(ids, value_set=among).fill_null(-1)
    places: np.ndarray = found.to_numpy(zero_copy_only=False).astype(np.int64)
    return places
