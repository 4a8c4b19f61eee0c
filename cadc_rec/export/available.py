"""Which items are sold out, by a column of the data's own table of items, as it is now.

In: settings that name the table, and a column of truth values. Out: the ids of the items whose
value is false, as text.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa

from cadc_rec.config.experiment import DataConfig
from cadc_rec.config.tables import ItemsTable
from cadc_rec.data.engine import open_engine
from cadc_rec.data.sources.own_tables import read_side
from cadc_rec.data.sources.raw_input import table_folders
from cadc_rec.data.sources.raw_tables import attribute_name
from cadc_rec.data.streams import one_array
from cadc_rec.data.tables.files import find_files
from cadc_rec.errors import CadcError

_VALUES = {"true": True, "1": True, "false": False, "0": False}


def sold_out(config: DataConfig, column: str, data_dir: Path | None = None) -> tuple[str, ...]:
    """Ids of the items that are not available; one without a value is.

    Args:
        config: names the table of items and its columns.
        column: of true and false, 1 and 0.
        data_dir: where a relative path is looked for.

    Raises:
        CadcError: there is no such table or column, or another value in it.
    """
    table = config.tables.items
    if config.source != "tables" or not table.path:
        raise CadcError(
            f"--available {column}: the data has no table of items in a file "
            "(data.tables.items.path); name what is sold out in a file with --block."
        )
    reading = ItemsTable(
        path=table.path,
        id=table.id,
        columns=table.columns,
        missing=table.missing,
        categorical=(column,),
    )
    tables = config.tables.model_copy(update={"items": reading, "on_bad_row": "error"})
    found = find_files(table.path, "data.tables.items.path", table_folders(data_dir))[0]
    with tempfile.TemporaryDirectory() as scratch, open_engine(Path(scratch)) as backend:
        rows = read_side(tables, "item", found, backend, Path(scratch), {}, {})
    values = one_array(rows[attribute_name(column)]).cast(pa.string()).to_pylist()
    ids: list[str] = one_array(rows["item_id"]).cast(pa.string()).to_pylist()
    out = []
    for one, value in zip(ids, values, strict=True):
        known = True if value is None else _VALUES.get(value.strip().lower())
        if known is None:
            raise CadcError(
                f"{table.path}: its column {column} is {value!r:.80} for the item {one:.80}; "
                "--available takes true and false, or 1 and 0."
            )
        if not known:
            out.append(one)
    return tuple(out)
