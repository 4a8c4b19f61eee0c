"""Epinions, as trustlet.org published it: ratings only, no attributes and no time."""

from __future__ import annotations

from pathlib import Path

from ibis.backends.duckdb import Backend

from cadc_rec.data.sources.archives import ARCHIVES
from cadc_rec.data.sources.delimited import Column, DelimitedFile, read_delimited
from cadc_rec.data.sources.extraction import decompress_bz2
from cadc_rec.data.sources.raw_tables import RawTables

_RATINGS = DelimitedFile(
    " ", (Column("user_id", "int64"), Column("item_id", "int64"), Column("rating", "float64"))
)


def read_epinions(backend: Backend, path: Path, scratch: Path) -> RawTables:
    """The raw tables of ``ratings_data.txt.bz2``, rows of ``user item rating``.

    Raises:
        CadcError: the file or a row of it is not as published; names file and line.
    """
    text = decompress_bz2(path, scratch, ARCHIVES["epinions"].url)
    rows = read_delimited(backend, text, _RATINGS, "raw_ratings", str(path))
    return RawTables(interactions=rows, has_time=False)
