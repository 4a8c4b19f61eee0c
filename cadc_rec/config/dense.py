"""Columns of users and items that stay numbers: vectors, and single numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from cadc_rec.config.types import Names, Section


class DenseColumns(Section):
    """What a table of users or items has beside its coded attributes."""

    vector: Names = ()
    """Columns of vectors, such as embeddings of images or of text: lists of numbers, all of one
    width. Each is divided by its length and kept in a frozen table of its own; the towers read it
    through a learned layer (`model.vector_dim`). A missing vector is a learned one. See
    [your-data.md](your-data.md#vectors-and-numbers)."""
    vector_precision: Literal["float32", "float16"] = "float32"
    """How vectors are stored, on disk and where they are looked up; `float16` takes half the
    memory."""
    continuous: Names = ()
    """Columns of numbers, dates or datetimes that the towers read as numbers. (Those of `numeric`
    are cut into buckets.)"""
    scale: Literal["standard", "quantiles"] = "standard"
    """How `continuous` columns are scaled. `standard`: mean 0 and standard deviation 1.
    `quantiles`: by rank, from -1 (the least value) to 1. Both are fitted on the users or items of
    the training rows."""
    log: Names = ()
    """Those `continuous` columns whose logarithm is scaled: sign(x) log(1 + |x|). For skewed
    numbers, such as prices."""

    def broken_rules(self) -> Iterator[str]:
        """See `Section`."""
        yield from super().broken_rules()
        for setting, columns in (("vector_precision", "vector"), ("scale", "continuous")):
            value, default = getattr(self, setting), DenseColumns.model_fields[setting].default
            if value != default and not getattr(self, columns):
                yield (
                    f"{setting} = {value!r} is about {columns!r} columns, and none is named; name "
                    f"them in {columns}, or leave {setting} out."
                )
        for column in self.log:
            if column not in self.continuous:
                yield f"log names {column!r}, which is not in continuous; name it there, too."

    @property
    def has_dense(self) -> bool:
        """Whether any column is named."""
        return bool(self.vector or self.continuous)

    def unset(self) -> set[str]:
        """The settings of this class that are as if they were not there."""
        fields: dict[str, Any] = DenseColumns.model_fields
        return {name for name, field in fields.items() if getattr(self, name) == field.default}
