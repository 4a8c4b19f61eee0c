"""Finds columns of users and items that look like counts or averages of interactions.

In: roles with their guesses. Out: the same without these columns, and a sentence on each. Such a
column was made of all interactions, those that are held out too: a model that reads it is told what
it is to predict. Names tell some of them; the others order users or items like their interactions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import ibis
import ibis.expr.types as ir
import numpy as np
from ibis.backends.duckdb import Backend
from scipy.stats import rankdata

from cadc_rec.data.inspect.profile import ColumnProfile, TableProfile
from cadc_rec.data.inspect.roles import Entities, Guess, Roles, words_of
from cadc_rec.data.inspect.warnings import name_of
from cadc_rec.data.tables.columns import as_number

_COUNTED = (
    r"\bn\b|\bcounts?\b|\bvotes?\b|popular|\bviews?\b|\bplays?\b|\bclicks?\b|\bsold\b|\bsales\b|"
    r"\bpurchases\b|\bdownloads\b|\blikes\b|\breviews\b|\btrending\b|\bbest ?seller|\brank\b|"
    r"\bratings?\b|score\b|\bstars?\b"
)
_AWARDED = r"\bawards?\b"
_ALIKE = 0.8
"""Rank correlation from which a column orders ids as their interactions do."""
_LEAST = 20
"""Ids below which no correlation says anything."""
_MOST = 200_000
"""Ids that are looked at."""
_NUMBER = re.compile(r"[0-9][0-9.,]*")


def without_leaks(backend: Backend, roles: Roles) -> tuple[Roles, list[str]]:
    """The roles without what looks like a count or an average, and a warning for each column.

    Args:
        backend: counts.
        roles: from `guess_roles`.
    """
    log = roles.interactions
    if log is None:
        return roles, []
    warnings: list[str] = []

    def cleared(entities: Entities | None, key: str) -> Entities | None:
        if entities is None:
            return None
        found = dict(_leaks(backend, log, key, roles.rating, entities))
        for column, why in found.items():
            place = f"{name_of(entities.table)}: {column}"
            warnings.append(f"{place} {why}; it may tell what is held out, so it was left out")
        guesses = [
            Guess(guess.column, None, found[guess.column]) if guess.column in found else guess
            for guess in entities.guesses
        ]
        return replace(entities, guesses=guesses)

    users, items = cleared(roles.users, roles.user), cleared(roles.items, roles.item)
    return replace(roles, users=users, items=items), warnings


def _leaks(
    backend: Backend, log: TableProfile, key: str, rating: str, entities: Entities
) -> Iterator[tuple[str, str]]:
    """Each column that would be used, or is a number, and looks like one; with the reason."""
    numbers = []
    for guess in entities.guesses:
        column = entities.table.column(guess.column)
        words = words_of(column.name)
        if re.search(_AWARDED, words) or (re.search(_COUNTED, words) and _is_number(column)):
            yield column.name, "is called like a count or an average of what people did"
        elif guess.kind is not None and _is_number(column):
            numbers.append(column.name)
    if not numbers:
        return
    rows = _beside_interactions(backend, log, key, rating, entities, numbers)
    taken = {"the number of their interactions": "__count"}
    if rating:
        taken["their mean rating"] = "__mean"
    for name in numbers:
        for words, other in taken.items():
            alike = _rank_correlation(rows[name], rows[other])
            if abs(alike) >= _ALIKE:
                yield name, f"orders rows as {words} does (rank correlation {alike:.2f})"
                break


def _is_number(column: ColumnProfile) -> bool:
    """Whether the values are numbers, also such as 1,234."""
    typed = bool(re.match(r"u?int|float|decimal", column.type))
    return typed or column.numbers > 0 or bool(_NUMBER.fullmatch(column.least))


def _beside_interactions(
    backend: Backend,
    log: TableProfile,
    key: str,
    rating: str,
    entities: Entities,
    columns: list[str],
) -> dict[str, np.ndarray]:
    """The columns' numbers of ids that have interactions, with how many and their mean rating."""
    rows = log.scan.rows
    asked: dict[str, ir.Value] = {"__count": ibis._.count().cast("float64")}
    if rating:
        asked["__mean"] = as_number(rows[rating]).mean()
    counted = rows.group_by(__id=rows[key].cast("string")).agg(**asked)
    table = entities.table.scan.rows
    values = {name: as_number(table[name]) for name in columns}
    own = table.select(__id=table[entities.id].cast("string"), **values)
    joined = backend.to_pyarrow(own.inner_join(counted, "__id").limit(_MOST)).drop(["__id"])
    return {name: joined[name].cast("float64").to_numpy() for name in joined.column_names}


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's, of the rows that have both; 0 where it says nothing."""
    known = np.isfinite(one) & np.isfinite(other)
    if known.sum() < _LEAST:
        return 0.0
    ranks = rankdata(one[known]), rankdata(other[known])
    if any(np.ptp(each) == 0 for each in ranks):
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])
