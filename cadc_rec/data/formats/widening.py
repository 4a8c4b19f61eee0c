"""One type for a column that files of one table write differently.

In: a column's Arrow types, one a file. Out: the narrowest type that holds the values of all, or
None where they are of different kinds. Encodings (dictionaries, large or viewed text) are no types.
Only of integers with and without a sign the values decide, see `one_integer`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import ibis.expr.types as ir
import pyarrow as pa

from cadc_rec.data.tables.scan import FILE, FILE_ROW, ROW
from cadc_rec.errors import CadcError

_INT64_MAX = 2**63 - 1
_DIGITS = 38  # of Arrow's and DuckDB's widest decimal


def plain(kind: pa.DataType) -> pa.DataType:
    """The type of the values, however they are encoded."""
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_date64(kind):
        return pa.date32()
    if _is_list(kind):
        return pa.list_(plain(kind.value_type))
    return kind


def widest(kinds: Iterable[pa.DataType]) -> pa.DataType | None:
    """The narrowest type that holds every value of all `kinds`; None where there is none.

    Args:
        kinds: from `plain`; that of a column without any value goes with every other.
    """
    found = pa.null()
    for kind in kinds:
        both = _wider(found, kind)
        if both is None:
            return None
        found = both
    return _without_null(found)


def mixes_signs(kinds: Collection[pa.DataType]) -> bool:
    """Whether whole numbers are uint64 in one file and signed in another.

    No integer of Arrow's holds both. `widest` then gives a decimal, which is exact; but what is an
    id or a time in each file is one in all of them.
    """
    numbers = [kind for kind in kinds if not pa.types.is_null(kind)]
    return (
        all(map(pa.types.is_integer, numbers))
        and pa.uint64() in numbers
        and any(map(pa.types.is_signed_integer, numbers))
    )


def one_integer(
    column: str, kinds: Sequence[pa.DataType], parts: Sequence[ir.Table], files: Sequence[Path]
) -> pa.DataType:
    """The type of 64 bits that holds a column's values where files differ in having a sign.

    Args:
        column: its name.
        kinds: its type in each part.
        parts: the rows of the files of one schema, with FILE and FILE_ROW.
        files: by number.

    Returns:
        int64 where all values fit. Else uint64, whose values beyond int64 are refused one by one
        where a column has to be of int64.

    Raises:
        CadcError: neither holds all; names the first value beyond int64 by file and row.
    """
    ends: dict[str, list[int]] = {"least": [0], "most": [0]}
    for part in parts:
        found = part.aggregate(least=part[column].min(), most=part[column].max())
        for key, value in found.to_pyarrow().to_pylist()[0].items():
            ends[key] += [] if value is None else [int(value)]
    if max(ends["most"]) <= _INT64_MAX:
        return pa.int64()
    if min(ends["least"]) >= 0:
        return pa.uint64()
    beyond = [
        part.filter(part[column] > _INT64_MAX).order_by(ROW).select(column, FILE, FILE_ROW).limit(1)
        for part, kind in zip(parts, kinds, strict=True)
        if kind == pa.uint64()
    ]
    rows = [row for part in beyond for row in part.to_pyarrow().to_pylist()]
    first = min(rows, key=lambda row: (row[FILE], row[FILE_ROW]))
    raise CadcError(
        f"{files[first[FILE]]}, row {first[FILE_ROW] + 1}: {column} is '{first[column]}', not a "
        "whole number of 64 bits with a sign, and other values of this column are below 0; mend "
        "or remove the row."
    )


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if _is_list(one) and _is_list(other):
        inside = _wider(one.value_type, other.value_type)
        return None if inside is None else pa.list_(inside)
    kinds = (one, other)
    if all(map(pa.types.is_integer, kinds)):
        return _wider_integer(one, other)
    if all(map(pa.types.is_floating, kinds)):
        return pa.float64()
    if all(map(_is_exact, kinds)):
        return _wider_decimal(*map(_as_decimal, kinds))
    if all(pa.types.is_timestamp(kind) or pa.types.is_date(kind) for kind in kinds):
        # A time without a zone is UTC, and none is kept finer than a microsecond.
        zoned = any(pa.types.is_timestamp(kind) and kind.tz for kind in kinds)
        return pa.timestamp("us", "UTC" if zoned else None)
    return None


def _wider_integer(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if pa.types.is_unsigned_integer(one) and pa.types.is_unsigned_integer(other):
        return pa.uint64()
    if pa.uint64() in (one, other):
        return pa.decimal128(_DIGITS, 0)  # DuckDB's integers of 128 bits have no type in Arrow
    return pa.int64()


def _is_exact(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_decimal(kind)


def _as_decimal(kind: pa.DataType) -> pa.DataType:
    return pa.decimal128(20, 0) if pa.types.is_integer(kind) else kind


def _wider_decimal(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    scale = max(one.scale, other.scale)
    digits = max(one.precision - one.scale, other.precision - other.scale) + scale
    return pa.decimal128(digits, scale) if digits <= _DIGITS else None


def _without_null(kind: pa.DataType) -> pa.DataType:
    """Text where no file has any value: its rows are then missing one by one."""
    if _is_list(kind):
        return pa.list_(_without_null(kind.value_type))
    return pa.string() if pa.types.is_null(kind) else kind


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )
