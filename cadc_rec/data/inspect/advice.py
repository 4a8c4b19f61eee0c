"""Which methods fit tables, a sentence each; docs/advice.md has the measurements behind them.

In: what the tables were taken for, and counts of the interactions. Out: an `Advice` for their
times, for the length of users' histories and for attributes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from cadc_rec.config.vectors import LEAST_USERS
from cadc_rec.data.inspect.roles import Entities, Roles
from cadc_rec.data.sources.times import Gaps

_SHORT = 35
"""Median history, at most, of the measured sets on most of which towers added nothing."""
_LONG = 65
"""Median history, at least, of the others."""
_OF_TIME = {
    "clock": (
        "times are a clock's: every method fits, and `auto` and `prior` also count what was taken "
        "in the hours before a request (prior.recent)"
    ),
    "order": (
        "times are only each user's order: `auto`, `recipe` and `prior` read no more than that; "
        "what needs a clock is left out (prior.recent; hour, weekday and gap of a context; a split "
        "by time)"
    ),
    "none": (
        "there is no time, so a user's order is a seeded draw and nothing can learn what follows "
        "what: `als`, `mf` and `cadc` read no order; the transitions of `auto` and `prior` count "
        "what is taken together"
    ),
}


@dataclass(frozen=True)
class Advice:
    """What one property of the data means for the choice of a method."""

    about: Literal["times", "histories", "users", "attributes"]
    finding: str
    """A word, such as ``order``."""
    text: str
    """A sentence without its full stop."""


def advise(
    roles: Roles, gaps: Gaps | None, median_items: float, held_out_users: int
) -> Iterator[Advice]:
    """What the data say about methods.

    Args:
        roles: what the tables were taken for.
        gaps: between users' times; None without times.
        median_items: of the numbers of different items that users took.
        held_out_users: users with three different items or more.
    """
    kind = "none" if gaps is None else gaps.kind
    yield Advice("times", kind, _OF_TIME[kind])
    yield _of_histories(median_items)
    if held_out_users < LEAST_USERS:
        yield Advice(
            "users",
            "few",
            f"{held_out_users:,} users can be held out for validation: with fewer than "
            f"{LEAST_USERS}, `prior.fit` chooses nothing, and the settings of `auto` and "
            "`prior` stand as they are",
        )
    yield _of_attributes(roles)


def _of_histories(median: float) -> Advice:
    length = f"(median {median:g} items a user)"
    if median <= _SHORT:
        text = (
            f"histories are short {length}: on three of four measured sets with a median of at "
            f"most {_SHORT}, towers added nothing beyond chance to the tables they read, on the "
            "fourth, news, they did; `prior` is these tables alone and takes less time than `auto`"
        )
        return Advice("histories", "short", text)
    if median >= _LONG:
        text = (
            f"histories are long {length}: on both measured sets with a median of at least "
            f"{_LONG}, the towers of `auto` were more accurate than the tables alone (`prior`), on "
            "one of them beyond chance"
        )
        return Advice("histories", "long", text)
    text = (
        f"histories are neither short nor long {length}: no data with a median between {_SHORT} "
        f"and {_LONG} were measured; `auto` keeps its towers where validation says that they add"
    )
    return Advice("histories", "between", text)


def _of_attributes(roles: Roles) -> Advice:
    if _has_attributes(roles.items):
        text = (
            "items have attributes: `auto` and `prior` weigh how alike items are (prior.content), "
            "and towers read them"
        )
        return Advice("attributes", "items", text)
    if _has_attributes(roles.users):
        text = "only users have attributes: towers read them (`auto`, `cadc`), tables alone do not"
        return Advice("attributes", "users", text)
    text = "there are no attributes: users and items are known by their interactions alone"
    return Advice("attributes", "none", text)


def _has_attributes(entities: Entities | None) -> bool:
    return entities is not None and any(guess.kind for guess in entities.guesses)
