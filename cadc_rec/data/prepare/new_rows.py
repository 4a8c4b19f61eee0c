"""Rows of users, items or interactions that came after a dataset, coded as the dataset's own are.

In: a file, and what a dataset's tables are like: the columns' names, and how their values became
codes and numbers. Out: ids and attributes in the order of the rows. A bundle keeps a copy of what
the tables are like, so that it can read new rows without the dataset.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from cadc_rec.config.data import DataConfig
from cadc_rec.config.dense import TextConfig
from cadc_rec.config.tables import (
    EntityTable,
    IdType,
    InteractionsTable,
    ItemsTable,
    TablesConfig,
    UsersTable,
)
from cadc_rec.data.dataset import Attribute, coded_attribute
from cadc_rec.data.dense import DESCRIBED, DenseAttribute, coded_dense
from cadc_rec.data.engine import open_engine
from cadc_rec.data.prepare.interactions import drop_duplicates
from cadc_rec.data.prepare.text import encoded, open_encoder
from cadc_rec.data.prepare.vocabulary import coded
from cadc_rec.data.sources.own_tables import read_side, read_tables
from cadc_rec.data.sources.raw_input import cache_folder
from cadc_rec.data.sources.raw_tables import Side
from cadc_rec.data.streams import one_array
from cadc_rec.data.tables.files import FileSet, TableFiles, find_files
from cadc_rec.data.tables.forms import Form
from cadc_rec.errors import CadcError
from cadc_rec.log import track
from cadc_rec.store.artifact import Artifact

_SIDES: tuple[Side, ...] = ("user", "item")
_KINDS = ("categorical", "multi", "numeric")
Duplicates = Literal["first", "last", "sum"]
Described = Mapping[str, Sequence[dict[str, Any]]]


@dataclass(frozen=True)
class Columns:
    """What a dataset's tables are like.

    Attributes:
        tables: names and kinds of their columns.
        text: how columns of text become vectors.
        ids: type of each side's ids.
        attributes: of each side, name, kind, size and vocabulary (``attributes.json``).
        dense: of each side, its vectors and numbers (``dense.json``).
        types: of each side, the type of an attribute's column in the file it came from.
        duplicates: which row of a repeated pair of user and item counts (``data.duplicates``).
    """

    tables: TablesConfig
    text: TextConfig
    ids: Mapping[str, IdType]
    attributes: Described
    dense: Described = field(default_factory=dict)
    types: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    duplicates: Duplicates = "first"

    @classmethod
    def of_dataset(cls, config: DataConfig, dataset: Artifact) -> Columns:
        """Those of a prepared dataset.

        Args:
            config: names the columns, where its source is the user's own tables.
            dataset: the prepare stage's artifact.
        """
        numbers = dataset.path / DESCRIBED
        return cls(
            layout(config, dataset),
            config.text,
            {side: id_type(dataset, side) for side in _SIDES},
            described_attributes(dataset),
            json.loads(numbers.read_text("utf-8")) if numbers.is_file() else {},
            dataset.info.get("attribute_types", {}),  # an older dataset did not note them
            config.duplicates,
        )

    @classmethod
    def of_json(cls, value: Mapping[str, Any], attributes: Described, dense: Described) -> Columns:
        """What `to_json` gave, with the two descriptions that it leaves out."""
        return cls(
            TablesConfig.model_validate(value["tables"]),
            TextConfig.model_validate(value["text"]),
            value["ids"],
            attributes,
            dense,
            value["types"],
            value.get("duplicates", "first"),  # an older bundle did not note them
        )

    def to_json(self) -> dict[str, Any]:
        """All but `attributes` and `dense`, and without where the tables were."""
        place = {role: {"path", "query"} for role in ("interactions", "users", "items")}
        dumped = own_files_apart(self.tables).model_dump(
            mode="json", exclude={"database": True, **place}
        )
        types = {side: dict(of_side) for side, of_side in self.types.items()}
        text = self.text.model_dump(mode="json")
        return {
            "tables": dumped,
            "text": text,
            "ids": dict(self.ids),
            "types": types,
            "duplicates": self.duplicates,
        }

    def forms(self) -> dict[tuple[str, str], Form]:
        """See `attribute_forms`."""
        return attribute_forms(self.attributes, self.types)


@dataclass(frozen=True)
class NewRows:
    """Users or items of a file.

    Attributes:
        ids: original ones, in the order of the rows.
        attributes: their codes.
        dense: their vectors and numbers.
    """

    ids: pa.Array
    attributes: list[Attribute]
    dense: list[DenseAttribute]


def read_new_rows(columns: Columns, side: Side, file: Path, option: str) -> NewRows:
    """Read a file with the columns of ``[data.tables.users]`` or ``[data.tables.items]``.

    Args:
        columns: what the dataset's are like.
        side: what the file is of.
        file: the file, in any format that a table may have.
        option: of the command that named it, for messages.

    Raises:
        CadcError: the file is not there, lacks a column, or has a row that is not as declared.
    """
    tables = own_files_apart(columns.tables)
    entities = getattr(tables, f"{side}s").model_copy(update={"path": str(file)})
    if side == "item":  # a title is for people, and no vector has a part of it
        entities = entities.model_copy(update={"title": ""})
    named = {f"{side}s": entities, f"{side}_ids": columns.ids[side], "on_bad_row": "error"}
    tables = tables.model_copy(update=named)
    with _reading(file, option) as (found, backend, scratch):
        widths = vector_widths(columns.dense)
        rows = read_side(tables, side, found, backend, scratch, columns.forms(), widths)
    codes = []
    for entry in columns.attributes[side]:
        values, _ = coded(one_array(rows[entry["name"]]), len(rows), entry)
        codes.append(coded_attribute(values, entry))
    described = columns.dense.get(side, ())
    rows = with_encoded(columns.text, rows, [entry["name"] for entry in described])
    ids = one_array(rows[f"{side}_id"])
    return NewRows(ids, codes, coded_dense(rows, described))


def read_log(columns: Columns, file: Path, option: str) -> pa.Table:
    """Read a file of interactions: ``user_id`` and ``item_id``, the earliest first.

    Of a pair of user and item the row stays that a dataset keeps, so that histories are those of
    training.

    Args:
        columns: what the dataset's are like; those of a context are not read.
        file: the file, in any format that a table may have.
        option: of the command that named it, for messages.

    Raises:
        CadcError: the file is not there, lacks a column, or has a row that is not as declared.
    """
    keys = columns.tables.interactions.model_copy(
        update={"path": str(file), "context": (), "context_lagged": (), "weight": ""}
    )
    named = {f"{side}_ids": columns.ids[side] for side in _SIDES}
    tables = columns.tables.model_copy(
        update={"interactions": keys, **named, "on_bad_row": "error"}
    )
    with _reading(file, option) as (found, backend, scratch):
        rows = read_tables(tables, TableFiles(found, None, None), backend, scratch).interactions
        if not keys.timestamp:
            rows = rows.mutate(timestamp=ibis.literal(0))
        # The sum of a pair's weights has no part in a history: its first row does.
        rows = drop_duplicates(rows, "last" if columns.duplicates == "last" else "first")
        return rows.order_by("timestamp", "row").select("user_id", "item_id").to_pyarrow()


def own_files_apart(tables: TablesConfig) -> TablesConfig:
    """What the dataset's rows have in files of their own, new ones have in columns of the name."""
    changed: dict[str, EntityTable] = {}
    for role, table in (("users", tables.users), ("items", tables.items)):
        vectors = (*table.vector, *table.vector_files)
        changed[role] = table.model_copy(update={"vector": vectors, "vector_files": {}})
    return tables.model_copy(update=changed)


@contextmanager
def _reading(file: Path, option: str) -> Iterator[tuple[FileSet, Backend, Path]]:
    """The file, what reads it, and a folder for what is unpacked."""
    if not file.exists():
        raise CadcError(f"{file}: no such file; correct {option}.")
    sets = find_files(str(file.absolute()), option, [file.parent])
    with tempfile.TemporaryDirectory() as scratch, open_engine(Path(scratch)) as backend:
        yield sets[0], backend, Path(scratch)


def with_encoded(text: TextConfig, rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """The rows with vectors in place of texts.

    Args:
        text: how they are encoded.
        rows: of users or items.
        names: of columns; those that are text are encoded.
    """
    for name in names:
        if name not in rows.column_names or not _is_text(rows[name]):
            continue
        given = [(np.arange(len(rows)), rows[name].combine_chunks())]
        with (
            open_encoder(text, cache_folder()) as encoder,
            track(f"encode {name}", len(rows), "texts") as ticker,
        ):
            ((known, vectors),) = encoded(given, encoder, ticker)
        place = np.full(len(rows), -1)
        place[known] = np.arange(len(known))
        vectors = vectors.take(pa.array(place, mask=place < 0))
        rows = rows.set_column(rows.column_names.index(name), name, vectors)
    return rows


def _is_text(column: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))


def attribute_forms(
    described: Described, types: Mapping[str, Mapping[str, str]]
) -> dict[tuple[str, str], Form]:
    """How the values of attributes are written, by side and name; see `Columns`."""
    return {
        (side, entry["name"]): Form.of(
            entry["vocabulary"], types.get(side, {}).get(entry["name"], "")
        )
        for side in _SIDES
        for entry in described[side]
        if entry["kind"] != "numeric"
    }


def vector_widths(dense: Described) -> dict[tuple[str, str], int]:
    """Of each vector of a dataset, by side and name."""
    return {
        (side, entry["name"]): int(entry["width"])
        for side, entries in dense.items()
        for entry in entries
        if entry["kind"] == "vector"
    }


def described_attributes(dataset: Artifact) -> Mapping[str, list[dict[str, Any]]]:
    """Each side's attributes: name, kind, size and vocabulary."""
    text = (dataset.path / "attributes.json").read_text("utf-8")
    described: Mapping[str, list[dict[str, Any]]] = json.loads(text)
    return described


def layout(config: DataConfig, dataset: Artifact) -> TablesConfig:
    """The columns of a day's tables."""
    if config.source == "tables":
        return config.tables
    named = {
        side: {
            kind: tuple(entry["name"] for entry in attributes if entry["kind"] == kind)
            for kind in _KINDS
        }
        for side, attributes in described_attributes(dataset).items()
    }
    titled = "title" in pq.read_schema(dataset.path / "items.parquet").names
    return TablesConfig(
        interactions=InteractionsTable(timestamp="timestamp" if dataset.info["has_time"] else ""),
        users=UsersTable().model_copy(update=named["user"]),
        items=ItemsTable(title="title" if titled else "", keep="taken").model_copy(
            update=named["item"]
        ),
    )


def id_type(dataset: Artifact, side: str) -> IdType:
    """What the ids of the dataset are: the day's must be the same."""
    kind = pq.read_schema(dataset.path / f"{side}s.parquet").field(f"{side}_id").type
    return "integer" if pa.types.is_integer(kind) else "string"
