"""The attributes of items, and the rows of the items that a filter leaves out.

In: columns of attributes, row n being item number n. Out: the rows of the items that have none of
the values that a filter wants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cadc_rec.errors import CadcError

Filter = Mapping[str, Sequence[Any]]
"""Attribute to values: items that have one of the values, of every attribute that is named."""


@dataclass(frozen=True)
class ItemAttribute:
    """One attribute of all items, as CSR: item n has ``codes[indptr[n]:indptr[n + 1]]``."""

    code_of: Mapping[Any, int]
    """Of each value."""
    indptr: NDArray[np.int64]
    codes: NDArray[np.int64]

    @classmethod
    def of_column(cls, column: pa.Array, vocabulary: Sequence[Any]) -> ItemAttribute:
        """The attribute of a Parquet column: a code, or a list of codes, an item."""
        code_of = {value: code for code, value in enumerate(vocabulary, start=1)}
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            indptr = column.offsets.to_numpy().astype(np.int64)
            return cls(code_of, indptr, column.flatten().to_numpy().astype(np.int64))
        return cls(code_of, np.arange(len(column) + 1), column.to_numpy().astype(np.int64))

    def having(self, codes: Sequence[int]) -> NDArray[np.bool_]:
        """Whether each item has one of `codes`; ``[n_items]``."""
        hits = np.concatenate([[0], np.cumsum(np.isin(self.codes, codes))])
        found: NDArray[np.bool_] = np.diff(hits[self.indptr]) > 0
        return found


def blocked_by(
    wanted: Filter, attributes: Mapping[str, ItemAttribute], n_items: int
) -> NDArray[np.int64]:
    """Rows of the items that a filter leaves out, ascending.

    Raises:
        CadcError: it names an attribute or a value that no item has.
    """
    allowed = np.ones(n_items, np.bool_)
    for name, values in wanted.items():
        attribute = attributes.get(name)
        if attribute is None:
            known = ", ".join(sorted(attributes)) or "none"
            raise CadcError(f"items have no attribute {name!r:.80}; there are: {known}.")
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise CadcError(f"filter: give a list of values for {name}, not {values!r:.80}.")
        codes = []
        for value in values:
            try:
                codes.append(attribute.code_of[value])
            except (KeyError, TypeError):
                raise CadcError(f"no item has {name} = {value!r:.80}.") from None
        allowed &= attribute.having(codes)
    return np.flatnonzero(~allowed)
