"""Raw files of the public data sets, by hand and in their genuine formats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# user::item::rating::timestamp. User 1 has a tie (items 20 and 10 at time 5: file order decides),
# user 2 the same pair twice, user 7 two interactions only, and the ids have gaps.
RATINGS = """\
1::30::5::9
1::20::4::5
1::10::3::5
1::400::1::7
2::10::5::1
2::20::5::3
2::10::4::2
2::30::2::4
7::10::5::1
7::400::5::2
"""
USERS = "1::F::1::10::48067\n2::M::56::16::70072\n7::F::25::15::55117\n9::M::25::15::55117\n"
MOVIES = (
    "10::Toy Story (1995)::Animation|Children's|Comedy\n"
    "20::Misérables, Les (1998)::Drama\n"
    "30::Nameless::Comedy|Drama\n"
    "50::Never Rated (1950)::Western\n"
)


def members_1m(
    ratings: str = RATINGS, users: str = USERS, movies: str = MOVIES
) -> dict[str, str | bytes]:
    return {
        "ml-1m/ratings.dat": ratings,
        "ml-1m/users.dat": users.encode("latin-1"),
        "ml-1m/movies.dat": movies.encode("latin-1"),
    }


def rows_of(text: str, delimiter: str = "::") -> list[list[int]]:
    return [[int(value) for value in line.split(delimiter)] for line in text.splitlines()]


def text_of(rows: Iterable[Sequence[object]], delimiter: str = "::") -> str:
    return "".join(delimiter.join(str(value) for value in row) + "\n" for row in rows)
