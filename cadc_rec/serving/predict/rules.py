"""How a list is put together of the items that may be recommended.

In: what finds the best items, and `Rules`: boosts, a floor for scores, at most so many items of a
value, diversity. Out: the list of each user. All of it is exact: the list is the one that scoring,
adding, striking out and sorting all items by hand would give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.user_items import UserItems
from cadc_rec.errors import CadcError
from cadc_rec.serving.predict.catalogue import ItemAttribute
from cadc_rec.serving.predict.choosing import Search
from cadc_rec.serving.predict.conditions import Condition, Every, Without
from cadc_rec.serving.predict.filters import Filter, Room, condition_of
from cadc_rec.serving.predict.numbers import number
from cadc_rec.serving.predict.top_k import Best, Doubles, NotCandidates, VectorRows, filled

BOOSTS = 16
"""How many boosts a request may have."""
LARGEST_BOOST = 1000.0
PLACES = 10_000
"""Users times k of a request whose list is put together item by item."""
_POOL, _LARGEST_POOL = 10, 1000  # times k, and items: what diversity chooses from


@dataclass(frozen=True)
class Boost:
    """Something that is added to the scores of the items that a filter lets through."""

    filter: Filter | Every
    add: float


@dataclass(frozen=True)
class Rules:
    """How a list is put together of the items that may be recommended.

    Attributes:
        max_per: of each of these attributes, at most so many items of one value. Items are taken
            the best first, and one whose value has no room is passed over. An item with several
            values needs room for each, one without any needs none.
        diversity: from 0 to 1, the weight of maximal marginal relevance (Carbonell and Goldstein
            1998). The list is chosen among the best 10 k items, up to 1,000 (k where k is more):
            next comes the item with the largest ``(1 - diversity) r - diversity c``, where r is its
            score, scaled so that the pool's go from 0 to 1, and c the largest cosine between its
            vector and one already chosen (0 for the first).
        boosts: each adds to the scores of some items before anything is ranked.
        min_score: items with a lower score, boosts included, are left out.

    The last three are about scores of vectors; in answers by popularity, whose scores are counts,
    they do nothing.
    """

    max_per: Mapping[str, int] = field(default_factory=dict)
    diversity: float = 0.0
    boosts: Sequence[Boost] = ()
    min_score: float | None = None

    @property
    def item_by_item(self) -> bool:
        """Whether the list is not simply the best items."""
        return bool(self.max_per) or self.diversity > 0

    def steps(self, k: int) -> int:
        """What a list of k places takes: how often an item is looked at; 0 of the best items."""
        return k * _pool(k) if self.item_by_item else 0

    def read(self, places: int, attributes: Mapping[str, ItemAttribute], n: int) -> Rules:
        """The same with the filters of boosts read, so that none is read again.

        Args:
            places: users times k.
            attributes: of items.
            n: how many items there are.

        Raises:
            CadcError: a rule is of the wrong type or range, or names what no item has.
        """
        for name, most in self.max_per.items():
            if name not in attributes:
                known = ", ".join(sorted(attributes)) or "none"
                raise CadcError(
                    f"max_per: items have no attribute {name!r:.80}; there are: {known}."
                )
            if isinstance(most, bool) or not isinstance(most, int) or most < 1:
                raise CadcError(f"max_per: {name} = {most!r:.80} is not a whole number from 1 on.")
            attributes[name].of_row(0)
        if not 0 <= number(self.diversity, "diversity is a number from 0 to 1") <= 1:
            raise CadcError(f"diversity = {self.diversity!r:.80} is not between 0 and 1.")
        if self.item_by_item and places > PLACES:
            raise CadcError(
                f"max_per and diversity: at most {PLACES:,} places (users times k) are filled in "
                f"one request, not {places:,}; ask for fewer users."
            )
        if self.min_score is not None:
            number(self.min_score, "min_score is a number")
        if len(self.boosts) > BOOSTS:
            raise CadcError(f"boost: {len(self.boosts)} boosts; at most {BOOSTS} are taken.")
        boosts, room = [], Room()
        for boost in self.boosts:
            if abs(number(boost.add, "boost: 'add' is a number")) > LARGEST_BOOST:
                raise CadcError(
                    f"boost: {boost.add!r:.80} is not between -{LARGEST_BOOST:g} and "
                    f"{LARGEST_BOOST:g}."
                )
            boosts.append(replace(boost, filter=condition_of(boost.filter, attributes, n, room)))
        if all(a.filter is b.filter for a, b in zip(boosts, self.boosts, strict=True)):
            return self
        return replace(self, boosts=boosts)

    @cached_property
    def added(self) -> Doubles | None:
        """What the boosts, which were read, add to each item's scores, ``[n]``."""
        found: Doubles | None = None
        for boost in self.boosts:
            assert isinstance(boost.filter, Every)
            mask = boost.filter.bitmap().mask()
            found = np.zeros(len(mask)) if found is None else found
            found[mask] += boost.add
        return found


NO_RULES = Rules()


def chosen(
    search: Search,
    k: int,
    out: NotCandidates,
    rules: Rules,
    attributes: Mapping[str, ItemAttribute],
    vectors: VectorRows,
) -> Best:
    """The list of each user by the rules, with k places.

    Args:
        search: finds the best items.
        k: places.
        out: what may not be recommended, and what boosts add.
        rules: how the list is put together.
        attributes: of items.
        vectors: of items.
    """
    size = _pool(k) if rules.item_by_item else k
    pool = filled(search.best(size, out), size)
    if rules.min_score is not None:
        low = (pool.scores < rules.min_score) & search.by_vector[:, None]
        pool.rows[low], pool.scores[low] = -1, -np.inf
    if not rules.item_by_item:
        return pool
    best = Best(np.full((len(pool.rows), k), -1), np.full((len(pool.rows), k), -np.inf))
    for place, (rows, scores) in enumerate(zip(pool.rows, pool.scores, strict=True)):
        there = rows >= 0
        made = _List(k, rules.max_per, attributes)
        if rules.diversity and search.by_vector[place]:
            _add_diverse(made, rows[there], scores[there], rules.diversity, vectors)
        else:
            made.add(rows[there], scores[there])
        if there.all():
            _add_from_behind(made, place, rows, search, out, rules.min_score)
        n = len(made.rows)
        best.rows[place, :n], best.scores[place, :n] = made.rows, made.scores
    return best


def _pool(k: int) -> int:
    """How many of the best items a list of k places is chosen from."""
    return max(k, min(_POOL * k, _LARGEST_POOL))


class _List:
    """A list of k places that is filled item by item; values have only so much room in it."""

    def __init__(
        self, k: int, max_per: Mapping[str, int], attributes: Mapping[str, ItemAttribute]
    ) -> None:
        self.k, self.max_per, self.attributes = k, max_per, attributes
        self.rows: list[int] = []
        self.scores: list[float] = []
        self.counts: dict[str, dict[Any, int]] = {name: {} for name in max_per}

    @property
    def is_full(self) -> bool:
        return len(self.rows) == self.k

    def has_room(self, row: int) -> bool:
        """Whether all values of the item have room."""
        return all(
            self.counts[name].get(value, 0) < most
            for name, most in self.max_per.items()
            for value in self.attributes[name].of_row(row)
        )

    def take(self, row: int, score: float) -> None:
        """Put an item behind the others."""
        self.rows.append(row)
        self.scores.append(score)
        for name, counts in self.counts.items():
            for value in self.attributes[name].of_row(row):
                counts[value] = counts.get(value, 0) + 1

    def add(self, rows: NDArray[np.int64], scores: Doubles) -> None:
        """Put those of these items that have room behind the others, until all places are full."""
        for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
            if self.is_full:
                return
            if self.has_room(row):
                self.take(row, score)

    def full(self) -> list[Condition]:
        """The items that have a value without room, an attribute each."""
        full = {
            name: [value for value, count in counts.items() if count >= self.max_per[name]]
            for name, counts in self.counts.items()
        }
        return [self.attributes[name].having(values) for name, values in full.items() if values]


def _add_diverse(
    made: _List, rows: NDArray[np.int64], scores: Doubles, weight: float, vectors: VectorRows
) -> None:
    """Fill a list by maximal marginal relevance; of equal ones the better item comes first."""
    if not len(rows):
        return
    spread = scores.max() - scores.min()
    worth = (1 - weight) * ((scores - scores.min()) / spread if spread else np.ones(len(rows)))
    directions = vectors[rows].astype(np.float64)
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-30)
    nearest = np.full(len(rows), -np.inf)
    left = np.ones(len(rows), np.bool_)
    while not made.is_full and left.any():
        likeness = np.where(np.isneginf(nearest), 0.0, nearest)
        place = int(np.where(left, worth - weight * likeness, -np.inf).argmax())
        left[place] = False
        row = int(rows[place])
        if made.has_room(row):
            made.take(row, float(scores[place]))
            nearest = np.maximum(nearest, directions @ directions[place])


def _add_from_behind(
    made: _List,
    place: int,
    seen: NDArray[np.int64],
    search: Search,
    out: NotCandidates,
    least: float | None,
) -> None:
    """Fill a list with items behind the pool, the best first, where values left places empty.

    Each round asks for items without a value that is full, so its first one is always taken, and
    for twice as many as the one before: values of many items each would take a round each.
    """
    mine, size = out.some(np.array([place])), made.k
    while not made.is_full:
        narrowed = mine
        for condition in made.full():
            narrowed = narrowed.narrowed(Without(condition, search.popular.n_items))
        taken = np.concatenate([mine.taken.of(0), seen.astype(np.int32)])
        narrowed = replace(narrowed, taken=UserItems.of_lists([taken]))
        found = search.of_one(place, size, narrowed)
        size *= 2
        there = found.rows[0] >= 0
        if least is not None and search.by_vector[place]:
            there &= found.scores[0] >= least
        rows, scores = found.rows[0][there], found.scores[0][there]
        if not len(rows):
            return
        made.add(rows, scores)
        seen = np.concatenate([seen, rows])
