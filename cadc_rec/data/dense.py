"""Numbers of users and items that stay numbers: memory-mapped tables of a prepared dataset.

In: rows as the sources give them. Out, in the prepare stage's artifact: ``dense.json`` and
``dense/SIDE_NAME.npy``, a row a user or item in dense-id order; a row of zeros is missing. A vector
is divided by its length. Numbers are scaled and each stands beside a 1, so that a missing one
(0, 0) is not the mean. Widths are padded with zeros to groups of four, which lookups take.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cadc_rec.errors import CadcError

DESCRIBED, FOLDER = "dense.json", "dense"
NUMBERS = "continuous"
"""The name of the one table of all continuous columns of a side."""
_GROUP = 4
_QUANTILES = 100
_SMALL = 1e-12


@dataclass(frozen=True)
class DenseAttribute:
    """Numbers of all users (or items)."""

    name: str
    kind: Literal["vector", "numbers"]
    values: NDArray[Any]
    """float32 or float16 ``[n, width]``, read from the file as they are used; zeros: missing."""

    @property
    def width(self) -> int:
        """Of a row."""
        return int(self.values.shape[1])

    @property
    def half(self) -> bool:
        """Whether the table is stored as fp16."""
        return self.values.dtype == np.float16


def side_by_side(
    tables: Sequence[DenseAttribute], rows: NDArray[np.int64] | slice = slice(None)
) -> NDArray[np.float32] | None:
    """Rows of all tables side by side, float32 ``[n, sum of widths]``; None without tables."""
    parts = [np.asarray(table.values[rows], np.float32) for table in tables]
    return np.concatenate(parts, 1) if parts else None


def padded(width: int) -> int:
    """The width of the table of vectors of this width."""
    return -(-width // _GROUP) * _GROUP


def open_table(file: Path, rows: int, width: int, half: bool = False) -> NDArray[Any]:
    """A new memory-mapped table of zeros, ``[rows, padded(width)]``, for rows to be written to."""
    file.parent.mkdir(exist_ok=True)
    dtype = np.float16 if half else np.float32
    table = np.lib.format.open_memmap(file, "w+", dtype, (rows, padded(width)))
    if hasattr(os, "posix_fallocate"):  # a full disk is an error now, and no signal when written to
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
    return table


def write_vectors(
    batches: Iterable[tuple[NDArray[np.int64], pa.Array]], table: NDArray[Any], width: int
) -> int:
    """Write vectors to the rows they belong to, each divided by its length.

    Args:
        batches: row numbers ``[n]``, and a list of `width` numbers, or null, for each.
        table: of zeros, ``[rows, padded(width)]``.
        width: of the vectors.

    Returns:
        How many rows have a vector.
    """
    written = 0
    for numbers, lists in batches:
        known = lists.is_valid().to_numpy(zero_copy_only=False)
        flat = lists.drop_null().flatten().to_numpy(zero_copy_only=False)
        vectors = flat.reshape(-1, width).astype(np.float64)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _SMALL)
        table[numbers[known], :width] = vectors
        written += len(vectors)
    return written


@dataclass(frozen=True)
class Scale:
    """How the numbers of a column are scaled, fitted on some of them."""

    log: bool
    knots: tuple[float, ...]
    """Mean and standard deviation; or quantiles, ascending, if there are more than two."""

    @staticmethod
    def fit(values: NDArray[np.float64], kind: str, log: bool) -> Scale:
        """The scale of the known values.

        Args:
            values: ``[n]``; NaN is missing.
            kind: ``standard`` or ``quantiles``.
            log: whether the logarithm is scaled.
        """
        known = values[~np.isnan(values)]
        known = _logarithm(known) if log else known
        if kind == "standard":
            mean, spread = (known.mean(), known.std()) if len(known) else (0.0, 1.0)
            return Scale(log, (float(mean), float(spread) if spread > _SMALL else 1.0))
        knots = np.quantile(known, np.linspace(0, 1, _QUANTILES + 1)) if len(known) else [0.0] * 3
        return Scale(log, tuple(map(float, knots)))

    @staticmethod
    def of(entry: dict[str, Any]) -> Scale:
        """The scale of a column of `DESCRIBED`."""
        return Scale(bool(entry["log"]), tuple(map(float, entry["knots"])))

    def scaled(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scaled values ``[n]``; NaN stays."""
        values = _logarithm(values) if self.log else values
        if len(self.knots) == 2:
            mean, spread = self.knots
            return (values - mean) / spread
        knots, places = np.asarray(self.knots), np.linspace(-1, 1, len(self.knots))
        # From both sides: a value that fills several quantiles gets the middle one.
        upwards = np.interp(values, knots, places)
        downwards = np.interp(-values, -knots[::-1], -places[::-1])
        scaled: NDArray[np.float64] = (upwards - downwards) / 2
        return scaled


def _logarithm(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """sign(x) log(1 + |x|)."""
    return np.sign(values) * np.log1p(np.abs(values))


def write_numbers(
    values: NDArray[np.float64],
    table: NDArray[Any],
    fitted_on: NDArray[np.bool_],
    kind: str,
    logs: Sequence[bool],
) -> list[Scale]:
    """Write scaled numbers, each with a 1 beside it; a missing one stays (0, 0).

    Args:
        values: ``[rows, columns]``; NaN is missing.
        table: of zeros, ``[rows, padded(2 * columns)]``.
        fitted_on: bool ``[rows]``, those whose values decide the scales.
        kind: of the scales.
        logs: whether the logarithm of each column is scaled.
    """
    scales = []
    for place, log in enumerate(logs):
        column = values[:, place]
        scales.append(Scale.fit(column[fitted_on], kind, log))
        write_scaled(column, scales[-1], table, place)
    return scales


def write_scaled(
    column: NDArray[np.float64], scale: Scale, table: NDArray[Any], place: int
) -> None:
    """Write one column of numbers to its two of the table; NaN is missing."""
    known = ~np.isnan(column)
    table[:, 2 * place] = np.where(known, np.nan_to_num(scale.scaled(column)), 0)
    table[:, 2 * place + 1] = known


def coded_dense(rows: pa.Table, described: Sequence[dict[str, Any]]) -> list[DenseAttribute]:
    """The vectors and numbers of rows that came after a dataset was prepared, as it has its own.

    Args:
        rows: a column for each vector and each number.
        described: a side's entries of `DESCRIBED`.

    Raises:
        CadcError: the vectors of a column have another width.
    """
    found = []
    for entry in described:
        table = np.zeros((len(rows), entry["table_width"]), entry["precision"])
        if entry["kind"] == "vector":
            lists = rows[entry["name"]].combine_chunks()
            widths = pc.unique(pc.list_value_length(lists.drop_null())).to_pylist()
            if any(width != entry["width"] for width in widths):
                raise CadcError(
                    f"column {entry['name']}: has vectors of {min(widths)} numbers, and those of "
                    f"the dataset have {entry['width']}; make them by the same encoder."
                )
            write_vectors([(np.arange(len(rows)), lists)], table, entry["width"])
        else:
            for place, column in enumerate(entry["columns"]):
                values = rows[column["name"]].combine_chunks().cast(pa.float64())
                known = values.to_numpy(zero_copy_only=False).astype(np.float64)
                write_scaled(known, Scale.of(column), table, place)
        found.append(DenseAttribute(entry["name"], entry["kind"], table))
    return found


def table_file(folder: Path, side: str, name: str) -> Path:
    """Where a prepare stage's artifact has the table of this name."""
    return folder / FOLDER / f"{side}_{name}.npy"


def read_dense(
    folder: Path, side: str, first: int = 0, count: int | None = None
) -> list[DenseAttribute]:
    """The tables of ``user`` or ``item``, `count` rows from number `first` on.

    Args:
        folder: of a prepare stage's artifact; one without such columns has no tables.
        side: whose.
        first: number of the first row.
        count: how many; None is all that follow.
    """
    file = folder / DESCRIBED
    if not file.is_file():
        return []
    end = None if count is None else first + count
    return [
        DenseAttribute(
            entry["name"],
            entry["kind"],
            # Copy on write: torch takes no array that it could not write to.
            np.load(table_file(folder, side, entry["name"]), mmap_mode="c")[first:end],
        )
        for entry in json.loads(file.read_text("utf-8"))[side]
    ]
