"""Vectors in files of their own: a matrix (`.npy` or safetensors), and the ids of its rows.

In: a file and its list of ids. Out: the ids, and rows a block at a time, never all in memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cadc_rec.config.tables import EntityTable, IdForm, TablesConfig
from cadc_rec.data.dense import NUMBERS
from cadc_rec.data.id_forms import in_form
from cadc_rec.data.sources.raw_tables import Side, attribute_name
from cadc_rec.data.streams import one_array
from cadc_rec.errors import CadcError

_BLOCK = 8192  # rows at once
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""Of safetensors; NumPy has no bfloat16, which is the upper half of a float32."""


@dataclass(frozen=True)
class MatrixFile:
    """Vectors of one side, in a file."""

    side: Side
    name: str
    path: Path
    ids: Path
    tensor: str

    @cached_property
    def _matrix(self) -> tuple[NDArray[Any], bool]:
        """The memory-mapped matrix, and whether its elements are bfloat16."""
        try:
            found = self._npy() if self.path.suffix == ".npy" else self._safetensors()
        except (ValueError, KeyError, TypeError, IndexError, OSError, EOFError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
            raise CadcError(f"{self.path}: cannot be read ({reason}); write it again.") from None
        matrix, _ = found
        if matrix.ndim != 2 or not matrix.shape[1]:
            shape = " x ".join(map(str, matrix.shape))
            raise CadcError(f"{self.path}: holds {shape} floats; vectors are a matrix, a row each.")
        return found

    def _npy(self) -> tuple[NDArray[Any], bool]:
        matrix = np.load(self.path, mmap_mode="r", allow_pickle=False)
        if matrix.dtype.kind != "f":
            raise ValueError(f"its elements are {matrix.dtype}, not floats")
        return matrix, False

    def _safetensors(self) -> tuple[NDArray[Any], bool]:
        with self.path.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            if size > self.path.stat().st_size:
                raise ValueError("its header is longer than the file")
            header = json.loads(opened.read(size))
        if not isinstance(header, dict):
            raise ValueError("its header is no object")
        names = [name for name in header if name != "__metadata__"]
        name = self.tensor or (names[0] if len(names) == 1 else "")
        if name not in names:
            raise CadcError(f"{self.path}: holds {', '.join(names)}; name one of them as tensor.")
        entry = header[name]
        if entry["dtype"] not in _TYPES:
            raise ValueError(f"its elements are {entry['dtype']}, not floats")
        (begin, end), shape = map(int, entry["data_offsets"]), tuple(map(int, entry["shape"]))
        kind = np.dtype(_TYPES[entry["dtype"]])
        there = self.path.stat().st_size - 8 - size
        if min(shape, default=0) < 0 or end - begin != kind.itemsize * math.prod(shape):
            raise ValueError("a tensor's shape and its bytes differ")
        if not 0 <= begin <= end <= there:
            raise ValueError("it ends before its tensor does")
        matrix = np.memmap(self.path, kind, "r", 8 + size + begin, shape)
        return matrix, entry["dtype"] == "BF16"

    @property
    def width(self) -> int:
        """Of a vector."""
        return int(self._matrix[0].shape[1])

    def read_ids(self, kind: pa.DataType, forms: Sequence[IdForm]) -> pa.Array:
        """The ids of the rows, each once.

        Args:
            kind: the type of the dataset's.
            forms: see `TablesConfig.normalize_ids`.

        Raises:
            CadcError: as many ids as rows are wanted, each of that type, and no id twice.
        """
        ids = self._ids()
        rows = len(self._matrix[0])
        if len(ids) != rows:
            raise CadcError(
                f"{self.ids}: has {len(ids):,} ids, and {self.path} has {rows:,} rows; write one "
                "id for each row."
            )
        if forms:
            text = ids if pa.types.is_large_string(ids.type) else ids.cast(pa.string())
            ids = in_form(text, forms)
        try:
            ids = ids.cast(kind)
        except pa.ArrowException as error:
            raise CadcError(
                f"{self.ids}: the ids of {self.side}s are {kind}, and these are not ({error})."
            ) from None
        counted = pc.value_counts(ids)
        twice = counted.filter(pc.greater(counted.field("counts"), 1))
        if len(twice):
            shown = twice.field("values")[0].as_py()
            raise CadcError(f"{self.ids}: has the id {shown!r} twice; remove one of its rows.")
        return ids

    @property
    def first_id(self) -> Any:
        """For messages; None where there is none."""
        ids = self._ids()
        return ids[0].as_py() if len(ids) else None

    def _ids(self) -> pa.Array:
        try:
            if self.ids.suffix == ".npy":
                return pa.array(np.load(self.ids, allow_pickle=False))
            return one_array(pa.array(self.ids.read_text("utf-8").splitlines(), pa.string()))
        except (ValueError, OSError, EOFError, pa.ArrowException) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
            raise CadcError(
                f"{self.ids}: cannot be read as a list of ids ({reason}); write whole numbers as "
                ".npy, or text in UTF-8 with an id a line."
            ) from None

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The number of the first row of each block, and its vectors.

        Raises:
            CadcError: a vector of zeros, or with NaN or an infinity; names its row.
        """
        matrix, half_bits = self._matrix
        for start in range(0, len(matrix), _BLOCK):
            block = matrix[start : start + _BLOCK]
            if half_bits:
                block = (block.astype(np.uint32) << 16).view(np.float32)
            block = block.astype(np.float32)
            for wrong, words in (
                (~np.isfinite(block).all(1), "NaN or another value that is no number"),
                (~block.any(1), "zeros alone, which point nowhere; leave the row and its id out"),
            ):
                if wrong.any():
                    row = start + int(wrong.argmax()) + 1
                    raise CadcError(f"{self.path}, row {row}: holds {words}.")
            yield start, block


def find_matrices(config: TablesConfig, folders: Sequence[Path]) -> tuple[MatrixFile, ...]:
    """The files of vectors that the configuration names.

    Args:
        config: names them.
        folders: what a relative path is relative to.

    Raises:
        CadcError: a file is not there, or in no known format.
    """
    sides: tuple[tuple[Side, EntityTable], ...] = (("user", config.users), ("item", config.items))
    found = []
    for side, table in sides:
        columns = (*table.categorical, *table.multi, *table.numeric, *table.hashed)
        taken = {*map(attribute_name, (*columns, *table.vector, *table.text)), NUMBERS}
        for name, given in table.vector_files.items():
            if attribute_name(name) in taken:
                raise CadcError(
                    f"data.tables.{side}s.vector_files.{name}: {attribute_name(name)!r} is the "
                    "name of something else already; rename it."
                )
            taken.add(attribute_name(name))
            key = f"data.tables.{side}s.vector_files.{name}"
            path = _file(given.path, f"{key}.path", folders, (".npy", ".safetensors"))
            ids = _file(given.ids, f"{key}.ids", folders, (".npy", ".txt", ".csv", ""))
            found.append(MatrixFile(side, attribute_name(name), path, ids, given.tensor))
    return tuple(found)


def _file(path: str, key: str, folders: Sequence[Path], suffixes: Sequence[str]) -> Path:
    places = [folder / Path(path).expanduser() for folder in folders]
    for place in places:
        if place.is_file():
            if place.suffix not in suffixes:
                known = ", ".join(suffix for suffix in suffixes if suffix)
                raise CadcError(f"{place}: {key} names a file of these formats: {known}.")
            return place
    shown = " or ".join(dict.fromkeys(map(str, places)))
    raise CadcError(f"{shown}: no such file; correct {key}, or name its --data-dir.")
