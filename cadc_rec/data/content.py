"""What is known of items, as vectors of length one: the more alike, the larger the dot product.

Coded attributes: an item is a vector over their values, each weighted by its inverse document
frequency. Vectors and text: each vector less the mean of the known items', for what all items have
in common tells none apart. Coded attributes count for one half and vectors for the other, in equal
parts. What an item lacks adds nothing, and the rest counts for more.

In: attributes and dense tables. Out: a `Content`, whose rows are made when they are asked for, so
that tables which are larger than memory stay on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cadc_rec.data.dataset import Attribute
from cadc_rec.data.dense import DenseAttribute
from cadc_rec.data.prepare.vocabulary import UNKNOWN

_PAIRS = 2e7  # items that share a value, counted for each value: bounds time on any catalogue
_ELEMENTS = 2**22  # numbers of vectors held at once
_OF_VECTORS = 0.5  # their share where an item has both; chosen on validation (docs/protocol.md)
_SMALL = 1e-9


@dataclass(frozen=True)
class Content:
    """Unit vectors of items.

    Attributes:
        coded: float32 ``[items, values]``, rows of length one or empty.
        tables: vectors, of the same items.
        means: float64 ``[width]`` of each table, of the known items that have one.
    """

    coded: sparse.csr_array
    tables: Sequence[DenseAttribute] = ()
    means: Sequence[NDArray[np.float64]] = ()

    @classmethod
    def of(
        cls,
        attributes: Sequence[Attribute],
        dense: Sequence[DenseAttribute],
        n_items: int,
        known: int,
    ) -> Content:
        """Of all items, the known ones first; these decide frequencies and means.

        Args:
            attributes: of the items.
            dense: their vectors and numbers; numbers are left out.
            n_items: how many there are.
            known: how many of them are known.
        """
        tables = [table for table in dense if table.kind == "vector"]
        coded = coded_vectors(attributes, n_items, known)
        return cls(coded, tables, [_mean(table, known) for table in tables])

    def beside(self, coded: sparse.csr_array, dense: Sequence[DenseAttribute]) -> Content:
        """Of other items, less the same means.

        Args:
            coded: of these, weighted as those of `self` are.
            dense: their vectors and numbers, in the same order.
        """
        return Content(coded, [table for table in dense if table.kind == "vector"], self.means)

    def part(self, rows: NDArray[np.int64] | slice) -> Content:
        """Of some items."""
        tables = [replace(table, values=table.values[rows]) for table in self.tables]
        return Content(sparse.csr_array(self.coded[rows]), tables, self.means)

    def __len__(self) -> int:
        """Number of items."""
        return int(self.coded.shape[0])

    @property
    def width(self) -> int:
        """Of the vectors."""
        return sum(table.width for table in self.tables)

    @cached_property
    def _has_codes(self) -> NDArray[np.bool_]:
        return np.diff(self.coded.indptr) > 0

    def rows(self, rows: NDArray[np.int64] | slice) -> tuple[sparse.csr_array, NDArray[np.float32]]:
        """Unit vectors of some items in two parts.

        Returns:
            Coded values ``[n, values]``, and vectors side by side, float32 ``[n, width]``.
        """
        coded = self.coded[rows]
        if not self.tables:
            return coded, np.zeros((coded.shape[0], 0), np.float32)
        parts, squares = [], (1 - _OF_VECTORS) * self._has_codes[rows]
        share = _OF_VECTORS / len(self.tables)
        for table, mean in zip(self.tables, self.means, strict=True):
            vectors = np.asarray(table.values[rows], np.float64)
            vectors[vectors.any(1)] -= mean
            length = np.linalg.norm(vectors, axis=1)
            has = length > _SMALL
            vectors *= np.where(has, np.sqrt(share) / np.maximum(length, _SMALL), 0.0)[:, None]
            parts.append(vectors)
            squares = squares + share * has
        scale = 1.0 / np.sqrt(np.maximum(squares, _SMALL))
        of_coded = sparse.csr_array(coded, copy=True)
        of_coded.data *= np.repeat(np.sqrt(1 - _OF_VECTORS) * scale, np.diff(coded.indptr)).astype(
            np.float32
        )
        return of_coded, (np.concatenate(parts, 1) * scale[:, None]).astype(np.float32)

    def blocks(self, stop: int | None = None) -> Iterator[slice]:
        """Slices of all items, or of the first ones, whose vectors are held at once."""
        count, size = len(self) if stop is None else stop, max(1, _ELEMENTS // max(self.width, 1))
        for first in range(0, count, size):
            yield slice(first, min(first + size, count))


def _mean(table: DenseAttribute, known: int) -> NDArray[np.float64]:
    """Of those known items that have a vector."""
    total, count, size = np.zeros(table.width), 0, max(1, _ELEMENTS // table.width)
    for first in range(0, known, size):
        vectors = np.asarray(table.values[first : min(first + size, known)], np.float64)
        total += vectors.sum(0)
        count += int(vectors.any(1).sum())
    return total / max(count, 1)


def coded_vectors(
    attributes: Sequence[Attribute], n_items: int, deciding: int | None = None
) -> sparse.csr_array:
    """Every item's weighted values, of length one: float32 ``[n_items, values]``.

    Args:
        attributes: of the items.
        n_items: how many there are.
        deciding: how many, the first ones, decide the weights of the values; None: all.
    """
    return weighted_values(attributes, n_items, deciding).astype(np.float32)


def weighted_values(
    attributes: Sequence[Attribute], n_items: int, deciding: int | None = None
) -> sparse.csr_array:
    """`coded_vectors` in double precision."""
    deciding = n_items if deciding is None else deciding
    parts = [
        sparse.csr_array(
            (np.ones(len(each.values)), each.values, each.indptr), shape=(n_items, each.size)
        )
        for each in attributes
    ]
    if not parts:
        return sparse.csr_array((n_items, 0), dtype=np.float64)
    for part in parts:
        part.sum_duplicates()
        part.data[part.indices == UNKNOWN] = 0.0
    values = sparse.csr_array(sparse.hstack(parts))
    values.eliminate_zeros()
    values.data[:] = 1.0
    counts = values[:deciding].sum(0)
    order = np.argsort(counts, kind="stable")
    affordable = np.zeros(len(counts), bool)
    affordable[order] = np.cumsum(counts[order] ** 2) <= _PAIRS
    idf = np.log(deciding / np.maximum(counts, 1.0))
    values.data *= np.where(affordable, idf, 0.0)[values.indices]
    values.eliminate_zeros()
    length = np.sqrt(values.multiply(values).sum(1))
    values.data /= np.repeat(length, np.diff(values.indptr))
    return values
