"""A file of users or items that came after training, coded as the dataset's own are.

In: the file, the config, the prepared dataset. Out: ids and attributes, in the order of the rows.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from cadc_rec.config.experiment import DataConfig
from cadc_rec.data.dataset import Attribute, coded_attribute
from cadc_rec.data.dense import DESCRIBED, DenseAttribute, coded_dense
from cadc_rec.data.engine import open_engine
from cadc_rec.data.prepare.text import encoded, open_encoder
from cadc_rec.data.prepare.vocabulary import coded
from cadc_rec.data.sources.own_tables import read_side
from cadc_rec.data.sources.raw_input import cache_folder
from cadc_rec.data.sources.raw_tables import Side
from cadc_rec.data.streams import one_array
from cadc_rec.data.tables.files import find_files
from cadc_rec.errors import CadcError
from cadc_rec.log import track
from cadc_rec.store.artifact import Artifact
from cadc_rec.updates.day import described_attributes, id_type, layout, value_forms


@dataclass(frozen=True)
class NewEntities:
    """Users or items of a file.

    Attributes:
        ids: original ones, in the order of the rows.
        attributes: their codes.
        dense: their vectors and numbers.
    """

    ids: pa.Array
    attributes: list[Attribute]
    dense: list[DenseAttribute]


def new_entities(
    config: DataConfig, dataset: Artifact, side: Side, file: Path, option: str
) -> NewEntities:
    """Read a file with the columns of ``[data.tables.users]`` or ``[data.tables.items]``.

    Args:
        config: names the columns, where its source is the user's own tables.
        dataset: the prepare stage's artifact, whose codes are used.
        side: what the file is of.
        file: the file, in any format that a table may have.
        option: of the command that named it, for messages.

    Raises:
        CadcError: the file is not there, lacks a column, or has a row that is not as declared.
    """
    if not file.exists():
        raise CadcError(f"{file}: no such file; correct {option}.")
    sets = find_files(str(file.absolute()), option, [file.parent])
    tables = layout(config, dataset)
    entities = getattr(tables, f"{side}s").model_copy(update={"path": str(file)})
    # What the dataset's rows have in files of their own, these have in columns of these names.
    vectors = (*entities.vector, *entities.vector_files)
    entities = entities.model_copy(update={"vector": vectors, "vector_files": {}})
    if side == "item":  # a title is for people, and no vector has a part of it
        entities = entities.model_copy(update={"title": ""})
    named = {f"{side}s": entities, f"{side}_ids": id_type(dataset, side), "on_bad_row": "error"}
    with tempfile.TemporaryDirectory() as scratch, open_engine(Path(scratch)) as backend:
        rows = read_side(
            tables.model_copy(update=named),
            side,
            sets[0],
            backend,
            Path(scratch),
            value_forms(dataset),
        )
    found = []
    for entry in described_attributes(dataset)[side]:
        codes, _ = coded(one_array(rows[entry["name"]]), len(rows), entry)
        found.append(coded_attribute(codes, entry))
    numbers = dataset.path / DESCRIBED
    described = json.loads(numbers.read_text("utf-8"))[side] if numbers.exists() else []
    rows = _encoded(config, rows, [entry["name"] for entry in described])
    ids = one_array(rows[f"{side}_id"])
    return NewEntities(ids, found, coded_dense(rows, described))


def _encoded(config: DataConfig, rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """The rows with vectors in place of texts."""
    texts = [name for name in names if name in rows.column_names and _is_text(rows[name])]
    for name in texts:
        given = [(np.arange(len(rows)), rows[name].combine_chunks())]
        with (
            open_encoder(config.text, cache_folder()) as encoder,
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
