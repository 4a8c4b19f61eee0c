"""What a service is asked: a case is one kind of question, put to every user of a bundle.

In: a bundle's files, users, a generator. Out: a `Question`. Items are drawn of all there are, so
that lists name items that a user has taken, items twice, and items that do not exist.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from benchmarks.exactness.files import Files, Question

K = 20
NOBODY = 2**53 - 1  # an id that no user and no item has
Case = Callable[[Files, Sequence[Any], np.random.Generator], Question]


def _drawn(files: Files, draw: np.random.Generator, most: int) -> list[Any]:
    """Ids of up to `most` items, popular ones more often; one may come twice, one is unknown."""
    weights = files.popularity + 1
    rows = draw.choice(len(weights), draw.integers(1, most + 1), p=weights / weights.sum())
    ids = [files.item_ids[row] for row in rows]
    ids.insert(int(draw.integers(len(ids) + 1)), NOBODY)
    return ids


def _padded(lists: Sequence[list[Any]]) -> list[list[Any]]:
    """The same of one length, as a tensor wants them."""
    width = max(map(len, lists))
    return [[*each, *[NOBODY] * (width - len(each))] for each in lists]


def _of_each(files: Files, n: int, draw: np.random.Generator, most: int) -> list[list[Any]]:
    return _padded([_drawn(files, draw, most) for _ in range(n)])


def _session(mode: str) -> Case:
    """Of a tenth of the users only items that do not exist, which change nothing."""

    def ask(files: Files, users: Sequence[Any], draw: np.random.Generator) -> Question:
        told = [[NOBODY] if draw.random() < 0.1 else _drawn(files, draw, 8) for _ in users]
        return Question(users, K, _padded(told), parameters={"history_mode": mode})

    return ask


def _newcomers(files: Files, users: Sequence[Any], draw: np.random.Generator) -> Question:
    """Each user's last items, told by somebody whom the bundle does not know."""
    told = []
    for user in users:
        mine = files.known[files.user_row[user]][-int(draw.integers(1, 60)) :]
        told.append([files.item_ids[row] for row in mine])
    return Question([NOBODY] * len(users), K, _padded(told))


def _filtered(make: Callable[[Files], dict[str, Any]]) -> Case:
    return lambda files, users, _: Question(users, K, parameters={"filter": make(files)})


@cache
def _attributes(files: Files) -> tuple[str, list[Any], str, list[float]]:
    """One with values, the most frequent first, and one of numbers, with all items' ascending."""
    numbers = {
        name: sorted(value for each in values for value in each)
        for name, values in files.values.items()
        if all(isinstance(value, int | float) for each in values for value in each)
    }
    text = next(name for name in files.values if name not in numbers)
    counts = Counter(value for each in files.values[text] for value in each)
    name = next(iter(numbers))
    return text, [value for value, _ in counts.most_common()], name, numbers[name]


def _in(files: Files) -> dict[str, Any]:
    name, values, _, _ = _attributes(files)
    return {name: values[:2]}


def _rare(files: Files) -> dict[str, Any]:
    name, values, _, _ = _attributes(files)
    return {name: {"in": values[-2:]}}


def _not_in(files: Files) -> dict[str, Any]:
    name, values, _, _ = _attributes(files)
    return {name: {"not in": values[:1]}}


def _range(files: Files) -> dict[str, Any]:
    _, _, name, numbers = _attributes(files)
    low, high = numbers[len(numbers) // 4], numbers[3 * len(numbers) // 4]
    return {name: {">=": low, "<=": high}}


def _open_range(files: Files) -> dict[str, Any]:
    _, _, name, numbers = _attributes(files)
    return {name: {">": numbers[0], "<": numbers[len(numbers) // 4]}}


def _nested(files: Files) -> dict[str, Any]:
    text, values, name, numbers = _attributes(files)
    middle = numbers[len(numbers) // 2]
    either = [{"not": {text: values[:3]}}, {"and": [{name: {"<": middle}}, {text: [values[1]]}]}]
    return {"or": either, "not": {text: {"in": [values[4]]}}}


def _shared(files: Files, users: Sequence[Any], draw: np.random.Generator) -> Question:
    named = draw.choice(len(files.item_ids), 200, replace=False)
    return Question(users, K, candidates=[*(files.item_ids[row] for row in named), NOBODY])


def _max_per(files: Files) -> dict[str, int]:
    text, _, number, _ = _attributes(files)
    return {text: 2, number: 3}


def _boosted(files: Files, users: Sequence[Any], draw: np.random.Generator) -> Question:
    spread = float(np.abs(files.user_vectors[:100] @ files.item_vectors.T).std())
    boosts = [{"filter": _not_in(files), "add": spread}, {"filter": _range(files), "add": -spread}]
    return Question(users, K, parameters={"boost": boosts, "min_score": spread})


def _together(files: Files, users: Sequence[Any], draw: np.random.Generator) -> Question:
    """A session, a filter, candidates and blocked items of each user, and room for two a value."""
    lists = [_of_each(files, len(users), draw, most) for most in (8, 300, 40)]
    told, named, block = lists
    rules = {"filter": _not_in(files), "max_per": _max_per(files)}
    return Question(users, K, told, named, block, rules)


CASES: dict[str, Case] = {
    "plain, 100 places": lambda files, users, draw: Question(users, 100),
    "items taken before, too": lambda files, users, draw: Question(
        users, K, parameters={"exclude_seen": False}
    ),
    "session, appended": _session("append"),
    "session in place of the record": _session("replace"),
    "somebody new with a history": _newcomers,
    "somebody new without": lambda files, users, draw: Question([NOBODY] * len(users), 100),
    "filter: in": _filtered(_in),
    "filter: in, rare values": _filtered(_rare),
    "filter: not in": _filtered(_not_in),
    "filter: range": _filtered(_range),
    "filter: open range": _filtered(_open_range),
    "filter: and, or, not": _filtered(_nested),
    "candidates of all": _shared,
    "candidates of each": lambda files, users, draw: Question(
        users, K, candidates=_of_each(files, len(users), draw, 300)
    ),
    "blocked for all": lambda files, users, draw: Question(
        users, K, block=_drawn(files, draw, 300)
    ),
    "blocked for each": lambda files, users, draw: Question(
        users, K, block=_of_each(files, len(users), draw, 300)
    ),
    "at most so many of a value": lambda files, users, draw: Question(
        users, K, parameters={"max_per": _max_per(files)}
    ),
    "boosts and a floor": _boosted,
    "all of these together": _together,
}
"""By name."""
SOLD_OUT = "sold out"
"""One more: `plain`, after the service was told that items are sold out."""
