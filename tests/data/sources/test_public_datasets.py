"""What the parsers make of the genuine formats, and what they refuse."""

from __future__ import annotations

import bz2
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cadc_rec.data.engine import open_engine
from cadc_rec.data.sources.public_datasets import (
    read_epinions,
    read_movielens_1m,
    read_movielens_10m,
    read_movielens_20m,
)
from cadc_rec.errors import CadcError
from tests.data.raw_files import MOVIES, RATINGS, USERS, members_1m

RATINGS_10M = "1::122::5::838985046\n1::185::4.5::838983525\n2::122::0.5::838984474\n"
MOVIES_10M = (
    "122::Boomerang (1992)::Comedy|Romance\n"
    "185::Cité des enfants perdus, La (1995)::Adventure\n"
    "8606::Pull My Daisy (1958)::(no genres listed)\n"
)


def test_movielens_1m(zip_1m, tmp_path):
    path = zip_1m(members_1m())
    with open_engine(tmp_path) as backend:
        raw = read_movielens_1m(backend, path, tmp_path)
        ratings = raw.interactions.order_by("row").to_pyarrow().to_pylist()
        users = raw.users.order_by("user_id").to_pyarrow().to_pylist()
        movies = raw.items.order_by("item_id").to_pyarrow().to_pylist()
    assert [list(row.values()) for row in ratings] == [
        [int(v) for v in line.split("::")] + [place]
        for place, line in enumerate(RATINGS.splitlines())
    ]
    assert users[1] == {
        "user_id": 2,
        "gender": "M",
        "age_group": 56,
        "occupation": 16,
        "zip_code": "70072",
        "row": 1,
    }
    assert movies == [
        {
            "item_id": 10,
            "title": "Toy Story (1995)",
            "genres": ["Animation", "Children's", "Comedy"],
            "decade": 1990,
        },
        {"item_id": 20, "title": "Misérables, Les (1998)", "genres": ["Drama"], "decade": 1990},
        {"item_id": 30, "title": "Nameless", "genres": ["Comedy", "Drama"], "decade": None},
        {"item_id": 50, "title": "Never Rated (1950)", "genres": ["Western"], "decade": 1950},
    ]
    names = [(attribute.name, attribute.side, attribute.kind) for attribute in raw.attributes]
    assert names == [
        ("gender", "user", "categorical"),
        ("age_group", "user", "categorical"),
        ("occupation", "user", "categorical"),
        ("genres", "item", "multi"),
        ("decade", "item", "categorical"),
    ]
    assert raw.has_time


def test_movielens_10m_has_half_stars_utf8_titles_and_no_users(zip_1m, tmp_path):
    members = {
        "ml-10M100K/ratings.dat": RATINGS_10M,
        "ml-10M100K/movies.dat": MOVIES_10M,
        "ml-10M100K/tags.dat": "15::4973::excellent!::1215184630\n",
    }
    path = zip_1m(members, "ml-10m.zip")
    with open_engine(tmp_path) as backend:
        raw = read_movielens_10m(backend, path, tmp_path)
        ratings = raw.interactions.order_by("row").to_pyarrow()
        movies = raw.items.order_by("item_id").to_pyarrow()
    assert raw.users is None
    assert ratings["rating"].to_pylist() == [5.0, 4.5, 0.5]
    assert movies["title"].to_pylist()[1] == "Cité des enfants perdus, La (1995)"
    assert movies["genres"].to_pylist() == [["Comedy", "Romance"], ["Adventure"], None]
    assert movies["decade"].to_pylist() == [1990, 1990, 1950]


def test_movielens_10m_is_prepared_without_user_attributes(zip_1m, prepare):
    zip_1m(
        {"ml-10M100K/ratings.dat": RATINGS_10M, "ml-10M100K/movies.dat": MOVIES_10M}, "ml-10m.zip"
    )
    artifact = prepare(source="movielens-10m")
    assert pq.read_schema(artifact.path / "users.parquet").names == ["user_id"]
    assert artifact.info["train"] == 3


RATINGS_20M = "userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n1,29,0.5,1112484676\n"
MOVIES_20M = (
    "movieId,title,genres\r\n"
    "2,Jumanji (1995),Adventure|Children|Fantasy\r\n"
    '29,"City of Lost Children, The (Cité des enfants perdus, La) (1995)",Adventure\r\n'
    '40697,"Great Performances"" Cats (1998)",(no genres listed)\r\n'
)


def test_movielens_20m_has_headers_and_quoted_titles(zip_1m, tmp_path):
    members = {
        "ml-20m/ratings.csv": RATINGS_20M,
        "ml-20m/movies.csv": MOVIES_20M,
        "ml-20m/genome-scores.csv": "movieId,tagId,relevance\n1,1,0.025\n",
    }
    path = zip_1m(members, "ml-20m.zip")
    with open_engine(tmp_path) as backend:
        raw = read_movielens_20m(backend, path, tmp_path)
        ratings = raw.interactions.order_by("row").to_pyarrow().to_pylist()
        movies = raw.items.order_by("item_id").to_pyarrow()
    assert raw.users is None
    assert [list(row.values()) for row in ratings] == [
        [1, 2, 3.5, 1112486027, 0],
        [1, 29, 0.5, 1112484676, 1],
    ]
    assert movies["title"].to_pylist()[1:] == [
        "City of Lost Children, The (Cité des enfants perdus, La) (1995)",
        'Great Performances" Cats (1998)',
    ]
    assert movies["genres"].to_pylist() == [
        ["Adventure", "Children", "Fantasy"],
        ["Adventure"],
        None,
    ]
    assert movies["decade"].to_pylist() == [1990, 1990, 1990]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("ratings", RATINGS_20M.replace("movieId", "itemId"), "line 1: is 'userId,itemId,rating,"),
        ("ratings", RATINGS_20M + "2,x,4.0,1112484676\n", "line 4: item_id is 'x', not a whole"),
        ("ratings", "userId,movieId,rating,timestamp\n", "is empty; expected rows of user_id,"),
        ("movies", MOVIES_20M + "5,A, B,C\r\n", "line 5: 4 fields instead of 3"),
        ("movies", MOVIES_20M + '5,"A,B\r\n', "line 5: its quotes do not match"),
    ],
)
def test_a_wrong_line_of_movielens_20m_is_named(zip_1m, tmp_path, file, text, message):
    members = {"ml-20m/ratings.csv": RATINGS_20M, "ml-20m/movies.csv": MOVIES_20M}
    path = zip_1m(members | {f"ml-20m/{file}.csv": text}, "ml-20m.zip")
    with open_engine(tmp_path) as backend, pytest.raises(CadcError) as caught:
        read_movielens_20m(backend, path, tmp_path)
    assert f"ml-20m/{file}.csv" in str(caught.value)
    assert message in str(caught.value)


def test_epinions_rows_have_no_time(epinions, tmp_path):
    path = epinions("1 100 4\n1 101 5\n2 100 3\n")
    with open_engine(tmp_path) as backend:
        raw = read_epinions(backend, path, tmp_path)
        rows = raw.interactions.order_by("row").to_pyarrow().to_pylist()
    assert [(r["user_id"], r["item_id"], r["row"]) for r in rows] == [
        (1, 100, 0),
        (1, 101, 1),
        (2, 100, 2),
    ]
    assert not raw.has_time
    assert raw.attributes == ()


BAD_RATINGS = {
    "missing item": ("1::::5::9\n", "line 1: item_id is missing"),
    "missing user": (RATINGS + "::10::5::9\n", "line 11: user_id is missing"),
    "word for an id": (RATINGS + "1::ten::5::9\n", "line 11: item_id is 'ten', not a whole number"),
    # DuckDB alone would read it as 2
    "fraction": ("1.5::10::5::9\n", "line 1: user_id is '1.5', not a whole number"),
    "hexadecimal": ("0x10::10::5::9\n", "line 1: user_id is '0x10', not a whole number"),
    "huge id": ("9" * 30 + "::1::1::1\n", f"line 1: user_id is '{'9' * 30}', not a whole number"),
    "no number": ("1::2::nan::9\n", "line 1: rating is 'nan', not a number"),
    "too short": (RATINGS + "1::10\n", "line 11: 2 fields instead of 4"),
    "too long": (RATINGS + "1::10::5::9::9\n", "line 11: 5 fields instead of 4"),
    "cut at the end": (RATINGS + "1::10::5", "line 11: 3 fields instead of 4"),
    "after a blank line": ("1::2::3::4\n\n1::x::3::4\n", "line 3: item_id is 'x'"),
    "a header": ("UserID::MovieID::Rating::Timestamp\n" + RATINGS, "line 1: user_id is 'UserID'"),
    "bytes": (RATINGS.encode() + b"1::2::\xff::4\n", "line 11: byte 7 is not utf-8"),
}


@pytest.mark.parametrize("case", BAD_RATINGS)
def test_a_bad_rating_is_refused_by_line(case, zip_1m, prepare, tmp_path):
    text, sentence = BAD_RATINGS[case]
    path = zip_1m({**members_1m(), "ml-1m/ratings.dat": text})
    with pytest.raises(CadcError) as caught:
        prepare()
    message = str(caught.value)
    assert f"{path}: ml-1m/ratings.dat, {sentence}" in message
    assert "expected user_id::item_id::rating::timestamp" in message
    assert message.endswith("Mend or remove the row, or get the file again.")
    assert not list((tmp_path / "work" / "prepare").glob("*")), "nothing half-written"


def test_an_empty_file_is_refused_by_name(zip_1m, prepare):
    path = zip_1m(members_1m(ratings=""))
    expected = f"{path}: ml-1m/ratings.dat: is empty; expected rows of user_id::item_id::rating"
    with pytest.raises(CadcError) as caught:
        prepare()
    assert expected in str(caught.value)


def test_a_user_listed_twice_is_refused(zip_1m, prepare):
    zip_1m(members_1m(users=USERS + "2::F::1::10::48067\n"))
    with pytest.raises(CadcError, match=r"users\.dat, line 5: user_id 2 stands on line 2 already"):
        prepare()


def test_a_bad_attribute_is_refused_and_an_empty_one_is_missing(zip_1m, prepare):
    zip_1m(members_1m(users=USERS.replace("M::56", "M::")))
    assert prepare().info["users"] == 3
    zip_1m(members_1m(users=USERS.replace("M::56", "M::old")))
    with pytest.raises(CadcError, match=r"users\.dat, line 2: age_group is 'old', not a whole"):
        prepare()


def test_a_movie_with_a_delimiter_in_its_title_is_refused_not_shifted(zip_1m, prepare):
    zip_1m(members_1m(movies=MOVIES + "60::Alien:: Director's Cut (1979)::Horror\n"))
    with pytest.raises(CadcError, match=r"movies\.dat, line 5: 4 fields instead of 3"):
        prepare()


def test_line_ends_of_windows_and_a_byte_order_mark_are_taken(zip_1m, prepare):
    zip_1m(members_1m())
    plain = prepare("a")
    crlf = b"\xef\xbb\xbf" + RATINGS.replace("\n", "\r\n").encode()
    zip_1m({**members_1m(), "ml-1m/ratings.dat": crlf})
    assert prepare("b").fingerprint == plain.fingerprint


def test_bad_epinions_rows_and_files_are_refused(
    epinions: Callable[[str], Path], prepare: Callable[..., object]
):
    path = epinions("1 100 4\n1 101\n")
    with pytest.raises(CadcError) as caught:
        prepare(source="epinions")
    assert f"{path}, line 2: 2 fields instead of 3; expected user_id item_id rating" in str(
        caught.value
    )

    whole = bz2.compress(b"1 100 4\n" * 10_000)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CadcError, match="truncated in the middle of its bz2 data; get it again"):
        prepare(source="epinions")

    path.write_bytes(b"not bz2 at all")
    with pytest.raises(CadcError, match="not a whole bz2 file"):
        prepare(source="epinions")

    epinions("")
    with pytest.raises(CadcError, match="is empty; expected rows of user_id item_id rating"):
        prepare(source="epinions")
