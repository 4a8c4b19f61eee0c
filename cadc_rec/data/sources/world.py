"""A latent-factor world: users with tastes, items with popularity, and who takes which items.

In: a `GeneratedConfig`. Out: interactions, block of users by block of users.

A user takes items one after the other without replacement, each with probability proportional to
``popularity(item) * exp(STRENGTH * cos(taste, item))`` among those not yet taken; the taste moves
from period to period. Adding Gumbel noise to the logarithm of that and keeping the largest does
exactly this (Gumbel top-k), a whole block at a time. Tastes and items lean on attributes, so that
attributes carry signal.

Every block has random streams of its own, so blocks can be drawn in any order and number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cadc_rec.config.experiment import GeneratedConfig
from cadc_rec.errors import CadcError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

STRENGTH = 9.0
"""How much stronger taste is than chance; set so that knowing the tastes is worth several times
knowing the popularity."""
PERIODS = 4
"""Steps in which a taste moves from its start to its end."""
MIN_INTERACTIONS = 3  # one for each of train, validation and test
GENRES, DECADES, SEGMENTS, AGE_GROUPS = 12, 6, 8, 6
FIRST_DECADE = 1960
_ACTIVITY_SPREAD = 1.0  # standard deviation of log(activity): heavy-tailed, as in public logs
_BLOCK_USERS = 256
# Scoring every item for every user is exact, and affordable for catalogues up to this size; above
# it, and for users of moderate activity, a sampled set of candidates stands for the catalogue.
_EXACT_ITEMS = 4096
_CANDIDATES = 2048
_CANDIDATE_USER_ROWS = 512  # a set of candidates has more distinct items than this
_START = 1_500_000_000  # seconds since 1970; users start within two years of it
_TWO_YEARS = 2 * 365 * 86_400
_ITEMS, _TABLES, _ACTIVITY, _USERS, _TAKEN, _TIMES = range(30, 36)  # kinds of random draws


@dataclass(frozen=True)
class UserBlock:
    """A block of users: who they are and what they like."""

    users: range
    segment: Ints
    age_group: Ints
    start: Floats
    """``[users, factors]`` unit vectors: tastes in the first period."""
    end: Floats
    """The same in the last period."""

    def taste(self, period: int) -> Floats:
        """Tastes in one period, unit vectors ``[users, factors]``."""
        weight = np.float32(period / (PERIODS - 1))
        return _unit((1 - weight) * self.start + weight * self.end)


@dataclass(frozen=True)
class BlockRows:
    """Interactions of a block of users, by user and then by time."""

    user: Ints
    item: Ints
    timestamp: Ints


class World:
    """The world of one `GeneratedConfig`; its items in memory, its users made block by block.

    Attributes:
        item_vectors: float32 ``[items, factors]``, unit vectors.
        log_popularity: float32 ``[items]``.
        genres: bool ``[items, GENRES]``, one to three each.
        decade: int64 ``[items]``, such as 1990.
        activity: int64 ``[users]``, interactions of each user; they sum to what was asked for.

    Raises:
        CadcError: so many users and items cannot have that many interactions.
    """

    def __init__(self, config: GeneratedConfig) -> None:
        self.config = config
        most = config.items // 2  # beyond that, taste hardly matters: nearly everything is taken
        low, high = MIN_INTERACTIONS * config.users, most * config.users
        if not low <= config.interactions <= high:
            raise CadcError(
                f"data.generated.interactions = {config.interactions} cannot be had from "
                f"{config.users} users and {config.items} items; choose {low} (three a user) to "
                f"{high} (half the items a user)."
            )
        draw = self._random(_TABLES)
        self._genre, self._decade, self._segment, self._age = (
            _unit(draw.standard_normal((n, config.factors), dtype=np.float32))
            for n in (GENRES, DECADES, SEGMENTS, AGE_GROUPS)
        )
        self._make_items()
        weights = np.exp(_ACTIVITY_SPREAD * self._random(_ACTIVITY).standard_normal(config.users))
        self.activity = _share_out(weights, config.interactions, MIN_INTERACTIONS, most)

    def blocks(self) -> int:
        """Number of blocks of users."""
        return -(-self.config.users // _BLOCK_USERS)

    def user_block(self, block: int) -> UserBlock:
        """The users of one block, and their tastes."""
        first = block * _BLOCK_USERS
        users = range(first, min(first + _BLOCK_USERS, self.config.users))
        draw, n = self._random(_USERS, block), len(users)
        segment, age_group = draw.integers(SEGMENTS, size=n), draw.integers(AGE_GROUPS, size=n)
        own, other = draw.standard_normal((2, n, self.config.factors), dtype=np.float32)
        start = _unit(self._segment[segment] + 0.5 * self._age[age_group] + 0.8 * _unit(own))
        drift = np.float32(self.config.drift)
        end = _unit((1 - drift) * start + drift * _unit(other))
        return UserBlock(users, segment, age_group, start, end)

    def rows(self, block: int) -> BlockRows:
        """What the users of one block took, in the order they took it."""
        people = self.user_block(block)
        counts = self.activity[people.users.start : people.users.stop]
        draw = self._random(_TAKEN, block)
        n_items = self.config.items
        taken = np.empty((len(counts), int(counts.max())), dtype=np.int64)
        if n_items <= _EXACT_ITEMS:
            everyone = np.arange(len(counts))
            self._take_exactly(people, everyone, counts, taken, draw)
        else:
            few = np.flatnonzero(counts <= _CANDIDATE_USER_ROWS)
            self._take_from_candidates(people, few, counts, taken, draw)
            for busy in np.flatnonzero(counts > _CANDIDATE_USER_ROWS):
                self._take_exactly(people, np.array([busy]), counts, taken, draw)
        is_row = np.arange(taken.shape[1]) < counts[:, None]
        user = np.repeat(np.asarray(people.users, dtype=np.int64), counts)
        return BlockRows(user, taken[is_row], self._times(block, counts))

    def _make_items(self) -> None:
        config, draw = self.config, self._random(_ITEMS)
        n = config.items
        wanted = draw.integers(1, 4, size=n)
        place = np.argsort(np.argsort(draw.random((n, GENRES)), axis=1), axis=1)
        self.genres = place < wanted[:, None]
        decade = draw.integers(DECADES, size=n)
        self.decade = FIRST_DECADE + 10 * decade
        mean_genre = self.genres.astype(np.float32) @ self._genre / wanted[:, None]
        own = _unit(draw.standard_normal((n, config.factors), dtype=np.float32))
        self.item_vectors = _unit(
            _unit(mean_genre.astype(np.float32)) + 0.3 * self._decade[decade] + 0.8 * own
        )
        rank = draw.permutation(n) + 1
        popularity = -config.popularity_skew * np.log(rank)
        self.log_popularity = (popularity - np.log(np.exp(popularity).sum())).astype(np.float32)
        self._popular = np.cumsum(np.exp(self.log_popularity.astype(np.float64)))

    def _take_exactly(
        self,
        people: UserBlock,
        who: Ints,
        counts: Ints,
        taken: Ints,
        draw: np.random.Generator,
    ) -> None:
        """Fill the rows `who` of `taken`, scoring every item."""
        available = np.zeros((len(who), self.config.items), dtype=np.float32)
        for period, chosen, rows in _periods(counts[who]):
            affinity = people.taste(period)[who] @ self.item_vectors.T
            scores = np.float32(STRENGTH) * affinity + self.log_popularity + available
            _take_top(scores, rows, chosen, available, None, taken, who, draw)

    def _take_from_candidates(
        self,
        people: UserBlock,
        who: Ints,
        counts: Ints,
        taken: Ints,
        draw: np.random.Generator,
    ) -> None:
        """Fill the rows `who` of `taken`, scoring a sample of the items.

        Half of the candidates are drawn by popularity and half uniformly; dividing by that
        proposal's probability gives popularity its due once, not twice.
        """
        if len(who) == 0:
            return
        n, half = self.config.items, _CANDIDATES // 2
        # sorted, they are looked up several times faster, and the candidates are sorted anyway
        chances = np.sort(draw.random((len(who), half)), axis=1)
        by_popularity = np.searchsorted(self._popular, chances)
        uniform = draw.integers(n, size=(len(who), half))
        candidates = np.sort(np.minimum(np.hstack([by_popularity, uniform]), n - 1), axis=1)
        repeated = np.diff(candidates, axis=1, prepend=-1) == 0
        popularity = np.exp(self.log_popularity)
        proposal = np.log(popularity / 2 + np.float32(0.5 / n))
        available = np.where(repeated, np.float32(-np.inf), np.float32(0))
        vectors = self.item_vectors[candidates]
        corrected = (self.log_popularity - proposal)[candidates]
        for period, chosen, rows in _periods(counts[who]):
            affinity = (vectors @ people.taste(period)[who][:, :, None])[:, :, 0]
            scores = np.float32(STRENGTH) * affinity + corrected + available
            _take_top(scores, rows, chosen, available, candidates, taken, who, draw)

    def _times(self, block: int, counts: Ints) -> Ints:
        """Seconds, strictly ascending in a user: minutes apart, now and then days."""
        draw = self._random(_TIMES, block)
        n = int(counts.sum())
        gaps = 1 + (60 * np.exp(1.5 * draw.standard_normal(n))).astype(np.int64)
        pause = (3 * 86_400 * draw.standard_exponential(n)).astype(np.int64)
        gaps += np.where(draw.random(n) < 0.1, pause, 0)
        elapsed = np.cumsum(gaps)
        first = np.cumsum(counts) - counts
        begin = _START + draw.integers(_TWO_YEARS, size=len(counts))
        return elapsed + np.repeat(begin - elapsed[first], counts)

    def _random(self, *key: int) -> np.random.Generator:
        sequence = np.random.SeedSequence((self.config.seed, *key))
        return np.random.Generator(np.random.Philox(sequence))


def _periods(counts: Ints) -> Iterator[tuple[int, Ints, Ints]]:
    """For each period: its number, the rows users had before it, and those they add in it."""
    done = np.zeros_like(counts)
    for period in range(PERIODS):
        until = counts * (period + 1) // PERIODS
        yield period, done, until - done
        done = until


def _take_top(
    scores: Floats,
    rows: Ints,
    before: Ints,
    available: Floats,
    candidates: Ints | None,
    taken: Ints,
    who: Ints,
    draw: np.random.Generator,
) -> None:
    """One period's Gumbel top-k: write the items to `taken`, mark them in `available`.

    Args:
        scores: ``[n, C]`` log-probabilities up to a constant, -inf where taken; overwritten.
        rows: ``[n]`` how many items each user takes now.
        before: ``[n]`` how many it has.
        available: ``[n, C]`` 0 or -inf; updated.
        candidates: ``[n, C]`` items the columns stand for; None when column c is item c.
        taken: every user's items so far; updated.
        who: ``[n]`` rows of `taken`.
        draw: random stream.
    """
    most = int(rows.max(initial=0))
    if most == 0:
        return
    # Gumbel noise; a float32 exponential is now and then exactly 0, whose logarithm is no number.
    noise = draw.standard_exponential(scores.shape, dtype=np.float32)
    scores -= np.log(np.maximum(noise, np.finfo(np.float32).tiny))
    top = np.argpartition(-scores, most - 1, axis=1)[:, :most]
    order = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1, kind="stable")
    top = np.take_along_axis(top, order, axis=1)
    user, place = np.nonzero(np.arange(most) < rows[:, None])
    column = top[user, place]
    available[user, column] = -np.inf
    taken[who[user], before[user] + place] = (
        column if candidates is None else candidates[user, column]
    )


def _share_out(weights: NDArray[np.float64], total: int, low: int, high: int) -> Ints:
    """Integers in ``[low, high]`` that sum to `total`, as nearly in proportion as that allows."""
    room, extra = high - low, total - low * len(weights)
    free = np.ones(len(weights), dtype=bool)
    share = np.zeros(len(weights))
    while free.any():
        left = extra - room * int(np.count_nonzero(~free))
        share = np.where(free, weights * (left / weights[free].sum()), room)
        over = free & (share > room)
        if not over.any():
            break
        free &= ~over
    counts = np.minimum(share.astype(np.int64), room)
    missing = extra - int(counts.sum())
    # what rounding down lost goes to those who lost most
    order = np.argsort(np.where(counts < room, counts - share, 1.0), kind="stable")
    counts[order[:missing]] += 1
    return low + counts


def _unit(vectors: Floats) -> Floats:
    """Rows of length one."""
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
