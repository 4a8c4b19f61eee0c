"""The values of numeric attributes beside their codes: a service filters by them.

In: a side's rows before and after they are encoded. Out: the encoded rows with one more column for
each numeric attribute, float64, null where nothing is known. Towers read the codes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:  # a service reads no tables, and has nothing that does
    from cadc_rec.data.sources.raw_tables import AttributeColumn

_SIGN = ":value"  # no attribute's name has a colon


def value_column(attribute: str) -> str:
    """The column of the values of a numeric attribute."""
    return f"{attribute}{_SIGN}"


def attribute_of_values(column: str) -> str | None:
    """The attribute whose values a column holds; None of any other column."""
    return column.removesuffix(_SIGN) if column.endswith(_SIGN) else None


def with_values(
    encoded: pa.Table, rows: pa.Table, attributes: Sequence[AttributeColumn]
) -> pa.Table:
    """The encoded rows with the values of numeric attributes, as `rows` has them."""
    for attribute in attributes:
        if attribute.kind == "numeric":
            values = rows[attribute.name].cast(pa.float64())
            encoded = encoded.append_column(value_column(attribute.name), values)
    return encoded
