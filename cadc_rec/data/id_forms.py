"""Ids that differ in form only: how they are made alike.

In: ids as Arrow arrays of text. Out: the same in one form.

`data/tables/columns.py` has the same forms as expressions for reading; a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import pyarrow as pa
import pyarrow.compute as pc

from cadc_rec.config.tables import IdForm

ID_FORMS: tuple[IdForm, ...] = get_args(IdForm)
"""In the order in which they are applied, whatever the order they are named in."""
SPACES = " \t\n\r\v\f\x85\xa0\u200b\u2028\u2029\u202f\u3000\ufeff"
"""White space that stands around ids in practice, with the marks that people do not see."""
WHOLE = r"^\+?(-?)0*([0-9]+)(?:\.0*)?$"
"""A whole number however it is written; its sign and its digits are groups 1 and 2."""


def in_form(ids: pa.Array, forms: Sequence[str]) -> pa.Array:
    """Ids in the forms that are named; other text stays as it is.

    Args:
        ids: text.
        forms: some of `ID_FORMS`.
    """
    if "trim" in forms:
        ids = pc.utf8_trim(ids, characters=SPACES)
    if "nfc" in forms:
        ids = pc.utf8_normalize(ids, form="NFC")
    if "integer-like" in forms:
        ids = pc.replace_substring_regex(ids, WHOLE, r"\1\2")
        ids = pc.if_else(pc.equal(ids, "-0"), "0", ids)
    return ids
