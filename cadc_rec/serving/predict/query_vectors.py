"""The users of a request: what each took, by all that is known and told, and their vectors.

In: rows of users, and what a request says of them: histories, attributes, the moment. Out: what
each answer is based on, the items that each took, and the vectors to search with, with the scores
that stand on top of their dot products. Which items are wanted is no matter here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.request_codes import Codes, Columns, Times
from cadc_rec.data.user_items import UserItems
from cadc_rec.errors import CadcError
from cadc_rec.serving.predict.answers import Source
from cadc_rec.serving.predict.attributes import Attributes, Told
from cadc_rec.serving.predict.contents import Contents
from cadc_rec.serving.predict.events import keys_of
from cadc_rec.serving.predict.ids import IdMap
from cadc_rec.serving.predict.listed import Listed
from cadc_rec.serving.predict.requests import padded
from cadc_rec.serving.predict.top_k import Floats

Histories = list[NDArray[np.int64]]
"""Of each user, rows of the items taken since the log ended, the latest first, each once."""


@dataclass(frozen=True)
class AskingUsers:
    """The users of a request.

    Attributes:
        contents: what answers are made from.
        rows: of the users ``[n]``, -1 of those the model has never seen.
        sources: what each answer is based on, int8 ``[n]``.
        codes: what the user tower reads of the requests; None of a model that reads nothing.
        histories: all that was taken since the log ended; None where nobody took anything.
        learned: the same without items that nobody had taken when the model learned.
        alone: how many items of each of `learned` are read alone; 0 or None reads all there are.
        told: attributes, by name.
    """

    contents: Contents
    rows: NDArray[np.int64]
    sources: NDArray[np.int8]
    codes: Codes | None
    histories: Histories | None
    learned: Histories | None
    alone: list[int] | None
    told: Told = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        contents: Contents,
        user_ids: Sequence[Any] | NDArray[Any],
        rows: NDArray[np.int64],
        time: Times,
        context: Columns,
        history: Sequence[Sequence[Any]] | None = None,
        alone: bool = False,
    ) -> AskingUsers:
        """Users by what a request says of them; see `Predictor.recommend`.

        Args:
            contents: what answers are made from.
            user_ids: original ids.
            rows: of these ``[n]``.
            time: the moment of each request.
            context: columns of the requests.
            history: original ids of the items that each took just now, oldest first. What was
                counted of a user comes before them.
            alone: whether histories are read in place of all else, where there are any.

        Raises:
            CadcError: an argument is of the wrong type or shape, or the model reads none.
        """
        codes = _codes(contents, rows, time, context)
        given = _histories(contents.items, history, len(rows))
        n_taken, read_alone = contents.n_taken, None
        if alone and given is not None:
            read_alone = [int((each < n_taken).sum()) for each in given]
        histories = _with_counted(contents, user_ids, rows, given)
        sources = np.where(rows >= 0, Source.KNOWN, Source.POPULARITY).astype(np.int8)
        learned = None
        if histories is not None:
            learned = [each[each < n_taken] for each in histories]
            if contents.newcomers is not None:
                some = np.array([len(each) > 0 for each in learned], np.bool_)
                sources[(rows < 0) & some] = Source.HISTORY
        return cls(contents, rows, sources, codes, histories, learned, read_alone)

    def with_attributes(self, attributes: Attributes) -> AskingUsers:
        """The same with what is told of them; known users keep their own.

        Raises:
            CadcError: the model reads no such attribute, or a value is of the wrong type.
        """
        if not attributes:
            return self
        if self.contents.user_attributes is None:
            raise CadcError("attributes: this model reads none of users; leave them out.")
        told = self.contents.user_attributes.told(attributes, len(self.rows))
        said = np.any([[value is not None for value in values] for values in told.values()], 0)
        described = (self.rows < 0) & said
        sources = np.where(described, np.int8(Source.ATTRIBUTES), self.sources)
        return replace(self, sources=sources, told=told)

    def taken(self, n_items: int) -> UserItems:
        """Items below row `n_items` that each took, by the own record and the history."""
        rows, known, histories = self.rows, self.contents.known, self.histories
        if len(rows) == 1 and rows[0] >= 0 and histories is None:
            return known.slice(int(rows[0]), int(rows[0]) + 1)
        if histories is None and len(rows) and rows.min() >= 0:
            return known.some(rows)
        nothing = known.items[:0]
        parts = [known.of(row) if row >= 0 else nothing for row in rows.tolist()]
        if histories is not None:  # events are shared with predictors that have more items
            parts = [
                np.concatenate([mine, more[more < n_items].astype(np.int32)])
                for mine, more in zip(parts, histories, strict=True)
            ]
        return UserItems.of_lists(parts)

    @cached_property
    def read(self) -> list[NDArray[Any]]:
        """The items that are read of each user, the latest first; none of one without a vector.

        An item that stands in both a user's own record and the history is where the history has it,
        though a log would keep its first place: it is what the user has in mind.
        """
        known, histories = self.contents.known, self.learned
        read: list[NDArray[Any]] = [known.items[:0]] * len(self.rows)
        alone = self.alone or [0] * len(self.rows)
        if histories is not None:
            new = (self.sources == Source.HISTORY) | (self.sources == Source.ATTRIBUTES)
            for place in np.flatnonzero(new):
                read[place] = histories[place][: alone[place] or None]
        if self.contents.listed is None and self.contents.requests is None:
            return read
        for place in np.flatnonzero((self.sources == Source.KNOWN) & (self.rows >= 0)):
            mine: NDArray[Any] = known.of(int(self.rows[place]))[::-1]
            if histories is not None and self.contents.reads_sessions and len(histories[place]):
                now = histories[place]
                if alone[place]:
                    mine = now[: alone[place]]
                else:
                    mine = np.concatenate([now, mine[~np.isin(mine, now)]])
            read[place] = mine
        return read

    def vectors(self) -> Floats:
        """A vector ``[n, d]`` of each user that has one; those of others are any.

        It is the user's own, or one that a program forms: of known users by what the request says,
        of others by their histories or attributes.

        Raises:
            CadcError: more is told of a user than the model takes.
        """
        rows, codes, requests = self.rows, self.codes, self.contents.requests
        found = self.contents.user_vectors[rows]
        if requests is not None and codes is not None and len(rows):
            found = requests.vectors(rows, self.read, codes)
        elif requests is not None and self.learned is not None:
            now = np.array([len(each) > 0 for each in self.learned], np.bool_)
            again = np.flatnonzero((self.sources == Source.KNOWN) & now)
            if len(again):
                found[again] = requests.vectors(rows[again], self._read_of(again), None)
        newcomers = np.flatnonzero(self.sources == Source.HISTORY)
        if len(newcomers):
            assert self.contents.newcomers is not None
            theirs = padded(self._read_of(newcomers), self.contents.history_length)
            asked = () if codes is None else (codes[newcomers],)
            found[newcomers] = self.contents.newcomers(theirs, *asked)
        if self.told and len(described := np.flatnonzero(self.sources == Source.ATTRIBUTES)):
            assert self.contents.user_attributes is not None
            found[described] = self.contents.user_attributes.vectors(
                self.told, described.tolist(), self._read_of(described)
            )
        return found

    def queries(self, n_items: int) -> tuple[Floats, Listed]:
        """Vectors to search with, and scores on top of their products with the first `n_items`.

        Once events were counted, recent popularity stands there, and no longer in the last element
        of the vectors.
        """
        queries, lists = self.vectors(), self.contents.listed
        listed = None if lists is None else lists.of_lists(self.read)
        now = self.contents.events.recent
        if now is None:
            return queries, listed
        factors = queries[:, -1]
        queries = queries.copy()
        queries[:, -1] = 0
        return queries, now.on_top(listed, factors, n_items)

    def _read_of(self, places: NDArray[np.int64]) -> list[NDArray[Any]]:
        return [self.read[place] for place in places]


def _codes(
    contents: Contents, rows: NDArray[np.int64], time: Times, context: Columns
) -> Codes | None:
    """What the user tower reads of the requests; None of a model that reads nothing."""
    if contents.requests is not None and contents.requests.codes is not None:
        return contents.requests.codes.of(rows, time, context)
    if time is not None or context:
        what = "time" if time is not None else "context"
        raise CadcError(
            f"{what}: this model reads nothing of the moment of a request; leave it out."
        )
    return None


def _histories(items: IdMap, history: Sequence[Sequence[Any]] | None, n: int) -> Histories | None:
    """The history of each of n users, by rows; unknown items are skipped."""
    if history is None:
        return None
    if isinstance(history, str) or len(history) != n:
        raise CadcError(f"history: give one list of item ids for each of the {n} users.")
    found = []
    for one in history:
        if isinstance(one, str) or not isinstance(one, Sequence | np.ndarray):
            raise CadcError(f"history: give a list of item ids a user, not {one!r:.80}.")
        rows = items.rows(one)
        found.append(_distinct(rows[rows >= 0][::-1]))
    return found


def _with_counted(
    contents: Contents,
    user_ids: Sequence[Any] | NDArray[Any],
    rows: NDArray[np.int64],
    given: Histories | None,
) -> Histories | None:
    """Histories of a request, with what was counted of each user behind them."""
    if not contents.events.has_users:
        return given
    counted = contents.events.of(keys_of(contents.users, user_ids, rows))
    if counted is None:
        return given
    given = given or [np.zeros(0, np.int64)] * len(rows)
    return [_distinct(np.concatenate(pair)) for pair in zip(given, counted, strict=True)]


def _distinct(history: NDArray[np.int64]) -> NDArray[np.int64]:
    """The items of a history, the latest first, each where it comes first."""
    _, first = np.unique(history, return_index=True)
    return history[np.sort(first)]
