"""MovieLens 1M, 10M and 20M, and Epinions: their archives as raw tables.

Every rating counts as a positive interaction, whatever its stars (implicit feedback, as in the
CADC paper); the rating is carried along and not used. Epinions, as trustlet.org published it, has
ratings only, no attributes and no time.
"""

from __future__ import annotations

from pathlib import Path

import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from cadc_rec.data.sources.delimited import Column, DelimitedFile, read_delimited
from cadc_rec.data.sources.extraction import decompress_bz2, extract_zip
from cadc_rec.data.sources.raw_input import ARCHIVES
from cadc_rec.data.sources.raw_tables import AttributeColumn, RawTables

_RATINGS = (
    Column("user_id", "int64"),
    Column("item_id", "int64"),
    Column("rating", "float64"),
    Column("timestamp", "int64"),
)
_USERS = (
    Column("user_id", "int64"),
    Column("gender", required=False),
    Column("age_group", "int64", required=False),
    Column("occupation", "int64", required=False),
    Column("zip_code", required=False),
)
_MOVIES = (
    Column("item_id", "int64"),
    Column("title", required=False),
    Column("genres_text", required=False),
)
_USER_ATTRIBUTES = (
    AttributeColumn("gender", "user", "categorical"),
    AttributeColumn("age_group", "user", "categorical"),
    AttributeColumn("occupation", "user", "categorical"),
)
_ITEM_ATTRIBUTES = (
    AttributeColumn("genres", "item", "multi"),
    AttributeColumn("decade", "item", "categorical"),
)
_EPINIONS = DelimitedFile(
    " ", (Column("user_id", "int64"), Column("item_id", "int64"), Column("rating", "float64"))
)
_NO_GENRE = "(no genres listed)"  # how 10M and 20M write an empty list


def read_movielens_1m(backend: Backend, path: Path, scratch: Path) -> RawTables:
    """The raw tables of ``ml-1m.zip`` (ratings, users with attributes, movies).

    Raises:
        CadcError: the archive or a row of it is not as published; names file, entry and line.
    """
    folder = "ml-1m"
    files = [f"{folder}/{name}.dat" for name in ("ratings", "users", "movies")]
    found = extract_zip(path, files, scratch, ARCHIVES["movielens-1m"].url)
    ratings, users, movies = (_Member(path, name, found[name]) for name in files)
    return RawTables(
        interactions=ratings.read(backend, DelimitedFile("::", _RATINGS)),
        users=users.read(backend, DelimitedFile("::", _USERS, "latin-1", unique="user_id")),
        items=_items(movies.read(backend, DelimitedFile("::", _MOVIES, "latin-1", "item_id"))),
        attributes=_USER_ATTRIBUTES + _ITEM_ATTRIBUTES,
        time_unit="s",
    )


def read_movielens_10m(backend: Backend, path: Path, scratch: Path) -> RawTables:
    """The raw tables of ``ml-10m.zip`` (half-star ratings, movies; nothing about its users).

    Raises:
        CadcError: the archive or a row of it is not as published; names file, entry and line.
    """
    folder = "ml-10M100K"
    files = [f"{folder}/{name}.dat" for name in ("ratings", "movies")]
    found = extract_zip(path, files, scratch, ARCHIVES["movielens-10m"].url)
    ratings, movies = (_Member(path, name, found[name]) for name in files)
    return RawTables(
        interactions=ratings.read(backend, DelimitedFile("::", _RATINGS)),
        items=_items(movies.read(backend, DelimitedFile("::", _MOVIES, "utf-8", "item_id"))),
        attributes=_ITEM_ATTRIBUTES,
        time_unit="s",
    )


def read_movielens_20m(backend: Backend, path: Path, scratch: Path) -> RawTables:
    """The raw tables of ``ml-20m.zip`` (half-star ratings, movies; nothing about its users).

    Raises:
        CadcError: the archive or a row of it is not as published; names file, entry and line.
    """
    folder = "ml-20m"
    files = [f"{folder}/{name}.csv" for name in ("ratings", "movies")]
    found = extract_zip(path, files, scratch, ARCHIVES["movielens-20m"].url)
    ratings, movies = (_Member(path, name, found[name]) for name in files)
    return RawTables(
        interactions=ratings.read(
            backend, DelimitedFile(",", _RATINGS, header="userId,movieId,rating,timestamp")
        ),
        items=_items(
            movies.read(
                backend,
                DelimitedFile(
                    ",", _MOVIES, "utf-8", "item_id", header="movieId,title,genres", quoted=True
                ),
            )
        ),
        attributes=_ITEM_ATTRIBUTES,
        time_unit="s",
    )


def read_epinions(backend: Backend, path: Path, scratch: Path) -> RawTables:
    """The raw tables of ``ratings_data.txt.bz2``, rows of ``user item rating``.

    Raises:
        CadcError: the file or a row of it is not as published; names file and line.
    """
    text = decompress_bz2(path, scratch, ARCHIVES["epinions"].url)
    rows = read_delimited(backend, text, _EPINIONS, "raw_ratings", str(path))
    return RawTables(interactions=rows, has_time=False)


class _Member:
    """One file of the archive, extracted."""

    def __init__(self, archive: Path, entry: str, path: Path) -> None:
        self.archive, self.entry, self.path = archive, entry, path

    def read(self, backend: Backend, layout: DelimitedFile) -> ir.Table:
        name = f"{self.archive}: {self.entry}"
        return read_delimited(backend, self.path, layout, f"raw_{self.path.stem}", name)


def _items(movies: ir.Table) -> ir.Table:
    """Genres as a sorted list of distinct names, decade from the year that ends the title."""
    genres = movies.genres_text.nullif(_NO_GENRE).split("|")
    year = movies.title.re_extract(r"\((\d{4})\)\s*$", 1).nullif("").cast("int64")
    return movies.select(
        "item_id",
        "title",
        genres=genres.filter(lambda genre: genre != "").unique().sort(),
        decade=(year - year % 10),
    )


READERS = {
    "movielens-1m": read_movielens_1m,
    "movielens-10m": read_movielens_10m,
    "movielens-20m": read_movielens_20m,
    "epinions": read_epinions,
}
"""The reader of each source that is an archive."""
