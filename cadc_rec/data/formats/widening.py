"""One type for a column that files of one table write differently.

In: a column's Arrow types, one a file. Out: the narrowest type that holds the values of all, or
None where they are of different kinds. Encodings (dictionaries, large or viewed text) are no types.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

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
