"""Attribute values become codes: 0 for missing or unknown, then the values in sorted order.

Of hashed attributes no values are kept: a code is 1 + the hash of the value's text, modulo the
number of codes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cadc_rec.data.sources.raw_tables import AttributeColumn
from cadc_rec.data.streams import one_array
from cadc_rec.errors import CadcError

UNKNOWN = 0


def encode_attributes(
    rows: pa.Table, attributes: Sequence[AttributeColumn], taken: int | None = None
) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Replace each attribute column of `rows` by its codes.

    Args:
        rows: one row an entity, in dense-id order.
        attributes: the columns to encode; the others pass through.
        taken: how many rows, the first ones, decide codes and buckets; None: all. A value that only
            the others have gets a code behind these.

    Returns:
        The table, with int32 (categorical, numeric and hashed) or list<int32> (multi; empty where
        nothing is known) columns, and for each attribute its name, kind, size (codes of the rows
        that decide, 0 included) and vocabulary (value of codes 1, 2, ...; of a numeric one the
        least value of each bucket; of a hashed one nothing).
    """
    taken = len(rows) if taken is None else taken
    described: list[dict[str, Any]] = []
    for attribute in attributes:
        values = one_array(rows[attribute.name])
        column, vocabulary, learned = _encoded(values, attribute, taken)
        rows = rows.set_column(rows.column_names.index(attribute.name), attribute.name, column)
        described.append(
            {
                "name": attribute.name,
                "kind": attribute.kind,
                "size": learned + 1,
                "vocabulary": vocabulary.to_pylist(),
            }
        )
    return rows, described


def bucket_edges(values: NDArray[np.float64], buckets: int) -> NDArray[np.float64]:
    """The least value of each quantile bucket, ascending.

    Of n values in ascending order, bucket b begins with number floor(b * n / buckets), counted
    from 0. Equal beginnings are merged, so that a frequent value fills one bucket and there are
    fewer; where there are no more distinct values than buckets, each is a bucket of its own.

    Args:
        values: finite ``[n]``.
        buckets: how many, at most.
    """
    distinct = np.unique(values)
    if len(distinct) <= buckets:
        return distinct
    beginnings = np.arange(buckets) * len(values) // buckets
    return np.unique(np.sort(values)[beginnings])


def _encoded(
    values: pa.Array, attribute: AttributeColumn, taken: int
) -> tuple[pa.Array, pa.Array, int]:
    """Codes of every row, what codes 1, 2, ... stand for, and how many the `taken` rows decide."""
    deciding = values[:taken]
    if attribute.kind == "numeric":
        known = pc.drop_null(deciding).to_numpy(zero_copy_only=False)
        edges = bucket_edges(known, attribute.buckets)
        # a missing value sorts before every edge, which is code 0
        filled = values.fill_null(-np.inf).to_numpy(zero_copy_only=False)
        codes = np.searchsorted(edges, filled, side="right")
        return pa.array(codes.astype(np.int32)), pa.array(edges), len(edges)
    if attribute.kind == "hashed":
        codes = hashed_codes(values, attribute.buckets)
        return codes, pa.array([], pa.string()), attribute.buckets
    multi = attribute.kind == "multi"
    flat, deciding = (pc.list_flatten(v) if multi else v for v in (values, deciding))
    vocabulary = _distinct(deciding)
    learned = len(vocabulary)
    if taken < len(values):
        others = _distinct(flat)
        new = others.filter(pc.invert(pc.is_in(others, value_set=vocabulary)))
        vocabulary = pa.concat_arrays([vocabulary, new])
    codes = _codes(flat, vocabulary)
    return (_lists(codes, values) if multi else codes), vocabulary, learned


def _distinct(values: pa.Array) -> pa.Array:
    """The known values, each once, in sorted order."""
    distinct = pc.unique(pc.drop_null(values))
    return distinct.take(pc.array_sort_indices(distinct))


def hash_code(value: str, codes: int) -> int:
    """The code of a text: 1 + the first eight bytes of its BLAKE2b, little-endian, modulo `codes`.

    The same everywhere and in every version: a value that comes tomorrow has it too.
    """
    digest = hashlib.blake2b(value.encode(), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "little") % codes


def hashed_codes(values: pa.Array, codes: int) -> pa.Array:
    """The code of each text, int32; each different one is hashed once."""
    encoded = pc.dictionary_encode(values)
    of_value = [hash_code(value, codes) for value in encoded.dictionary.to_pylist()]
    return pa.array(of_value, pa.int32()).take(encoded.indices).fill_null(UNKNOWN)


def _codes(values: pa.Array, vocabulary: pa.Array) -> pa.Array:
    index = pc.index_in(values, value_set=vocabulary, skip_nulls=True).cast(pa.int32())
    return pc.add(index.fill_null(UNKNOWN - 1), pa.scalar(1, pa.int32()))


def _lists(codes: pa.Array, lists: pa.Array) -> pa.Array:
    """`codes` cut into the lengths of `lists`; a null list is an empty one."""
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), codes)


def coded(
    values: pa.Array | None, count: int, attribute: dict[str, Any]
) -> tuple[pa.Array, dict[str, Any]]:
    """Codes of values by a vocabulary that is there, and what codes mean now.

    Args:
        values: None where nothing is known of the entities.
        count: how many there are.
        attribute: name, kind, size and vocabulary; values that it lacks get codes behind its own.

    Raises:
        CadcError: its values were whole numbers, and one of `values` is none.
    """
    vocabulary, kind = attribute["vocabulary"], attribute["kind"]
    if values is None:
        if kind == "multi":
            empty = pa.array(np.zeros(count + 1, np.int32))
            return pa.ListArray.from_arrays(empty, pa.array([], pa.int32())), attribute
        return pa.array(np.full(count, UNKNOWN, np.int32)), attribute
    if kind == "numeric":
        filled = values.fill_null(-np.inf).to_numpy(zero_copy_only=False)
        codes = np.searchsorted(np.asarray(vocabulary, np.float64), filled, side="right")
        return pa.array(codes.astype(np.int32)), attribute
    if kind == "hashed":
        return hashed_codes(values, attribute["size"] - 1), attribute
    flat = pc.list_flatten(values) if kind == "multi" else values
    codes, every, _ = grown_codes(flat, vocabulary, attribute["name"])
    if kind == "multi":
        codes = _lists(codes, values)
    return codes, {**attribute, "size": len(every) + 1, "vocabulary": every}


def grown_codes(
    values: pa.Array, vocabulary: list[Any], name: str
) -> tuple[pa.Array, list[Any], list[Any]]:
    """Codes of a day's values; those that are new get codes behind the vocabulary, in their order.

    Args:
        values: null where nothing is known, code 0.
        vocabulary: the values of codes 1, 2, ...
        name: the column's, for messages.

    Returns:
        int32 codes, the grown vocabulary, and what is new in it.

    Raises:
        CadcError: the vocabulary's values are whole numbers, and one of these is none.
    """
    old = pa.array(vocabulary) if vocabulary else pa.array([], values.type)
    values = _like(values, old.type, name)
    distinct = pc.unique(pc.drop_null(values))
    new = distinct.filter(pc.invert(pc.is_in(distinct, value_set=old)))
    new = new.take(pc.array_sort_indices(new))
    every = pa.concat_arrays([old, new])
    index = pc.index_in(values, value_set=every, skip_nulls=True).cast(pa.int32())
    codes = pc.add(index.fill_null(UNKNOWN - 1), pa.scalar(1, pa.int32()))
    return codes, every.to_pylist(), new.to_pylist()


def _like(values: pa.Array, kind: pa.DataType, name: str) -> pa.Array:
    """The values of a day in the type of those before: text, or whole numbers."""
    try:
        return values.cast(kind)
    except pa.ArrowException:
        shown = next(text for text in values.to_pylist() if text and not _is_whole(text))
        raise CadcError(
            f"column {name}: its values were whole numbers of 64 bits, and {shown!r} in the new "
            "table is none; correct it, or write it as missing."
        ) from None


def _is_whole(text: str) -> bool:
    try:
        pa.array([text]).cast(pa.int64())
    except pa.ArrowException:
        return False
    return True
