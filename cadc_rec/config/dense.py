"""Columns of users and items that stay numbers: vectors, and single numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from cadc_rec.config.types import Names, PositiveInt, Section

HASHED_NGRAMS = "hashed-ngrams"


class TextConfig(Section):
    """How `text` columns become vectors; see [your-data.md](your-data.md#text)."""

    encoder: Annotated[str, Field(min_length=1)] = HASHED_NGRAMS
    """`hashed-ngrams`: counts of words and of their parts, hashed; it needs no library and knows no
    meanings. Otherwise a folder with a model of sentence-transformers, which
    `pip install 'cadc-rec[text]'` reads."""
    dim: PositiveInt = 512
    """Width of the vectors of `hashed-ngrams`."""
    batch_size: PositiveInt = 64
    """Texts that a model encodes at once."""

    @property
    def folder(self) -> str:
        """The model's folder; empty where no model is read."""
        return "" if self.encoder == HASHED_NGRAMS else self.encoder

    def decisive(self) -> dict[str, Any]:
        """See `Section`; of a model its files count, not where they are."""
        return {"encoder": "model"} if self.folder else {"encoder": self.encoder, "dim": self.dim}


class VectorFile(Section):
    """Vectors in a file of their own, beside a list of the ids they are of."""

    path: Annotated[str, Field(min_length=1)]
    """A `.npy` or `.safetensors` file with a matrix, a row a vector; looked for as
    `data.tables.interactions.path` is."""
    ids: Annotated[str, Field(min_length=1)]
    """The ids of its rows, in their order: a `.npy` file, or a text file with an id a line."""
    tensor: str = ""
    """Name of the matrix in a `.safetensors` file; empty: there is only one."""


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
    vector_files: dict[str, VectorFile] = Field(default_factory=dict)
    """Further vectors, by name, each from a file of its own: `path` (`.npy` or `.safetensors`),
    `ids` (`.npy`, or text with an id a line) and, of several, the name of the `tensor`."""
    text: Names = ()
    """Columns of text. Each different text is encoded once, as `[data.text]` says; the result is
    read like a `vector`."""
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
        vectors = (*self.vector, *self.text, *self.vector_files)
        for setting, columns, named in (
            ("vector_precision", "vector", vectors),
            ("scale", "continuous", self.continuous),
        ):
            value, default = getattr(self, setting), DenseColumns.model_fields[setting].default
            if value != default and not named:
                yield (
                    f"{setting} = {value!r} is about {columns!r} columns, and none is named; name "
                    f"them in {columns}, or leave {setting} out."
                )
        for name in self.vector_files:
            if name in (*self.vector, *self.text, *self.continuous):
                yield f"vector_files has {name!r}, the name of a column, too; rename one of them."
        for column in self.log:
            if column not in self.continuous:
                yield f"log names {column!r}, which is not in continuous; name it there, too."

    @property
    def has_dense(self) -> bool:
        """Whether any column is named."""
        return bool(self.vector or self.vector_files or self.text or self.continuous)

    def unset(self) -> set[str]:
        """The settings of this class that are as if they were not there."""
        usual = DenseColumns()
        fields = DenseColumns.model_fields
        return {name for name in fields if getattr(self, name) == getattr(usual, name)}
