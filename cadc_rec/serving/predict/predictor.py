"""Recommendations from a bundle, in the process that wants them.

In: original user ids (and histories of those the model has never seen). Out: original item ids,
scores, and what each answer is based on. Nothing is changed after loading but by `Predictor.count`,
which puts what it made in place in one step. Who asks holds no lock, so any number of threads may.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.request_codes import Codes, Columns, Times
from cadc_rec.data.user_items import UserItems
from cadc_rec.errors import CadcError
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.predict.answers import Recommendations, Source
from cadc_rec.serving.predict.attributes import Attributes, Told
from cadc_rec.serving.predict.choosing import Choice, Ids, Popularity, Search
from cadc_rec.serving.predict.conditions import Every, with_few
from cadc_rec.serving.predict.contents import Contents
from cadc_rec.serving.predict.events import Counted, Event, Outcome, keys_of, placed
from cadc_rec.serving.predict.filters import Filter, condition_of
from cadc_rec.serving.predict.listed import Listed, scores_at
from cadc_rec.serving.predict.new_items import ItemChanges, ItemsBeside, PutItem, read_changes
from cadc_rec.serving.predict.put_beside import put_beside
from cadc_rec.serving.predict.requests import padded
from cadc_rec.serving.predict.retrieval import (
    AlteredItems,
    AndAltered,
    AndOthers,
    Retrieval,
)
from cadc_rec.serving.predict.rules import NO_RULES, Rules, chosen
from cadc_rec.serving.predict.top_k import Floats, ItemVectors, NotCandidates

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

HistoryMode = Literal["append", "replace"]
_NOTHING = np.zeros(0, np.int64)


class Predictor(Contents):
    """Answers for users, from a bundle's contents, which are kept in memory."""

    @classmethod
    def load(cls, path: Path | str, key: Ed25519PublicKey | None = None) -> Self:
        """The predictor of a bundle, after verifying every byte of it.

        Args:
            path: the bundle's folder.
            key: public key that the bundle must be signed with; None requires no signature.

        Raises:
            CadcError: the bundle is changed, not signed, of a newer version, or incomplete.
        """
        found = cls.of(Bundle.open(Path(path), key))
        found.load_ahead()
        return found

    def recommend(
        self,
        user_ids: Sequence[Any] | NDArray[Any],
        k: int = 10,
        exclude_seen: bool = True,
        filter: Filter | Every | None = None,
        history: Sequence[Sequence[Any]] | None = None,
        candidates: Ids | None = None,
        time: Times = None,
        context: Columns = None,
        history_mode: HistoryMode = "append",
        block: Ids | None = None,
        rules: Rules = NO_RULES,
        attributes: Attributes = None,
    ) -> Recommendations:
        """The k best items of each user.

        Args:
            user_ids: original ids ``[n]``.
            k: from 1 to the number of items.
            exclude_seen: leave out the items that a user took, and those of the history.
            filter: only items that it lets through; see `cadc_rec.serving.predict.filters`. The
                plainest one is a list of values for each attribute that is named.
            history: for each user, original ids of the items they took just now, oldest first;
                may be empty, and unknown items are skipped. It gives a vector to users whom the
                model has never seen. Known users' vectors and lists are formed anew with it, where
                the model reads histories (`reads_sessions`); others keep their own.
            candidates: original ids of the only items to rank, of all users ``[m]`` or a list for
                each; default: all.
            time: of a model that reads it, the moment of each request: seconds since 1970 (UTC),
                one number or one a user; None for one user is not known; default: now.
            context: values of the columns that a model reads of a request, by column, one value or
                one a user; what is left out, is None or was in no training row is missing.
            history_mode: what becomes of the items that the bundle knows of a known user:
                ``append`` puts the history after them, ``replace`` reads the history alone. They
                stay left out either way. An empty history changes nothing.
            block: original ids of items to leave out, likewise.
            rules: how a list is put together of the items that are left.
            attributes: of users the model has never seen, by attribute of the training users: a
                value a user, a list of them where it has several, None where it is unknown. The
                user tower makes a vector of them, and of the history. It reads nothing then of the
                moment of a request. Known users keep their own.

        Items that nobody took yet are ranked with the others where a filter or candidates are
        given, and are left out otherwise.

        Raises:
            CadcError: an argument is of the wrong type, shape or range.
        """
        rows = self.users.rows(user_ids)
        self._check_k(k)
        if history_mode not in ("append", "replace"):
            raise CadcError(f"history_mode is 'append' or 'replace', not {history_mode!r:.80}.")
        codes = self._codes(rows, time, context)
        given = self._histories(history, len(rows))
        histories, alone = self._joined(user_ids, rows, given, history_mode == "replace")
        learned = None if histories is None else [h[h < self.n_taken] for h in histories]
        only, rules = self.read_choice(filter, rules, len(rows) * k)
        choice = Choice.of(len(rows), self.items, only, candidates, block)
        # What nobody took yet is ranked where it is asked for, and nowhere else.
        asked = bool(self.untaken) and choice.asks
        every = asked or self.base is not None  # new items have the last rows
        most = len(self.items) if every else self.n_taken
        sources = self._sources(rows, learned)
        told = self._told(attributes, len(rows))
        if told:
            said = np.any([[value is not None for value in values] for values in told.values()], 0)
            sources[(rows < 0) & said] = Source.ATTRIBUTES
        seen = learned
        if every and histories is not None:  # events are shared with who has more items than this
            seen = [h[h < most] for h in histories]
        taken = self._taken(rows, seen) if exclude_seen else _nothing_of(len(rows))
        out = choice.out(taken, self.no_answer, most)
        out = replace(out, added=rules.added)
        read = self._read(rows, learned, sources, alone)
        queries = self._queries(rows, codes, sources, learned, read)
        described = np.flatnonzero(sources == Source.ATTRIBUTES)
        if len(described):
            assert self.user_attributes is not None
            theirs = [read[place] for place in described]
            queries[described] = self.user_attributes.vectors(told, described.tolist(), theirs)
        queries, listed = self._on_top(queries, read, most)
        retrieval = self._every_item if asked else self.retrieval
        popular = self._popular_of_every if asked else self._popular
        search = Search(queries, sources, retrieval, listed, popular, most, choice.own)
        best = chosen(search, k, out, rules, self.attributes, self.item_vectors.vectors)
        return Recommendations(best.rows, self.items.of_rows(best.rows), best.scores, sources)

    def score(
        self, pairs: Sequence[tuple[Any, Any]], time: Times = None, context: Columns = None
    ) -> NDArray[np.float64]:
        """Scores ``[n]`` of pairs of a user's and an item's original id.

        A score is NaN if the model has never seen the user or the item. Time and context are those
        of `recommend`, for each pair.
        """
        for pair in pairs:
            if isinstance(pair, str) or len(pair) != 2:
                raise CadcError(f"pairs: give (user id, item id) pairs, not {pair!r:.80}.")
        users = self.users.rows([user for user, _ in pairs])
        items = self.items.rows([item for _, item in pairs])
        known = np.full(len(users), Source.KNOWN, np.int8)
        histories, _ = self._joined([user for user, _ in pairs], users, None, replace=False)
        if histories is not None:
            histories = [h[h < self.n_taken] for h in histories]
        read = self._read(users, histories, known)
        queries = self._queries(users, self._codes(users, time, context), known, histories, read)
        queries, listed = self._on_top(queries, read, len(self.items))
        mine = queries.astype(np.float64)
        scores: NDArray[np.float64] = (mine * self.item_vectors.vectors[items]).sum(1)
        scores += [float(scores_at(listed, n, items[n : n + 1])[0]) for n in range(len(items))]
        scores[(users < 0) | (items < 0)] = np.nan
        return scores

    def count(self, events: Sequence[Event]) -> Counted:
        """Count what was taken since the bundle's log ended; every later answer is given with it.

        Recent popularity, where the model reads it, becomes that of a log that ended with these
        events. An event of a user joins the user's own items: it is read and left out as the
        `history` of a request is, before what that names.

        Args:
            events: in any order. Those that the log holds already, by their time, and those that
                were counted before, by their names, change nothing.

        Raises:
            CadcError: an id has the wrong type, or a time is none or lies in the future; nothing
                is counted.
        """
        return self.events.take(placed(events, self.now.items, self.users, self.known))

    def weigh(self, events: Sequence[Event]) -> list[Outcome]:
        """What `count` would do with each event.

        Raises:
            CadcError: it would refuse them.
        """
        return self.events.weigh(placed(events, self.now.items, self.users, self.known))

    def with_items(self, put: Sequence[PutItem] = (), remove: Sequence[Any] = ()) -> Predictor:
        """A predictor that answers with other items than this one, which stays as it is.

        They share all else, also what is counted (`count`) and withheld, which is kept by row. So
        make each predictor from the one before: two that are made from the same one give a row to
        two items, and what is counted of either is then counted of the other.

        A new item is ranked with the others by its vector alone: no transition leads to it, and
        nobody has taken it. An item of the bundle keeps what is known of it but for what is told;
        with attributes alone it keeps its vector. One that nobody took is ranked where it is asked
        for, as before. An item that is removed is unknown to every question.

        Args:
            put: items that came or changed; see `PutItem`.
            remove: original ids of items to remove; of no item: they do nothing.

        Raises:
            CadcError: an item is not as described, or the bundle makes no vectors of attributes.
        """
        return self.with_changes(self.read_items(put, remove))

    def read_items(
        self, put: Sequence[PutItem], remove: Sequence[Any], beside: ItemsBeside | None = None
    ) -> ItemChanges:
        """What `with_items` is told, checked, with all vectors.

        Args:
            put: items.
            remove: original ids.
            beside: what was told before; None is what this predictor has.

        Raises:
            CadcError: see `with_items`.
        """
        before = self.beside if beside is None else beside
        width = self.item_vectors.vectors.shape[1]
        return read_changes(put, remove, before, self.bundle.items, width, self.new_items)

    def with_changes(self, changes: ItemChanges) -> Predictor:
        """The predictor after changes that were checked."""
        bundle = self.bundle
        return put_beside(bundle, self.beside.after(changes, bundle.items))

    def similar_items(
        self,
        item_ids: Sequence[Any] | NDArray[Any],
        k: int = 10,
        filter: Filter | Every | None = None,
    ) -> Recommendations:
        """The k items with the most similar vectors (by cosine), without the item itself.

        An item that nobody took yet may be asked for, and is no answer. The filter is that of
        `recommend`.

        Raises:
            CadcError: an item is unknown, or `k` is out of range.
        """
        rows = self.items.rows(item_ids)
        self._check_k(k)
        if (rows < 0).any():
            lost = item_ids[int(np.argmax(rows < 0))]
            raise CadcError(f"no item has the id {lost!r:.80}.")
        itself = UserItems(np.arange(len(rows) + 1), rows.astype(np.int32))
        untaken = np.arange(self.n_taken, len(self.bundle.items))
        only = condition_of(filter, self.attributes, len(self.items)) if filter else None
        out = NotCandidates(itself, with_few(self.no_answer, untaken), only)
        best = self.directions.best(self.directions.vectors[rows], k, out)
        return Recommendations(
            best.rows,
            self.items.of_rows(best.rows),
            best.scores,
            np.full(len(rows), Source.KNOWN, np.int8),
        )

    def vectors_of_users(
        self,
        user_ids: Sequence[Any] | NDArray[Any],
        history: Sequence[Sequence[Any]] | None = None,
        time: Times = None,
        context: Columns = None,
        history_mode: HistoryMode = "append",
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """Vectors ``[n, d]`` that `recommend` would search with, and of which users there is one.

        The other vectors are zeros. A score is the dot product with an item's vector, and what
        lists and, once events were counted, recent popularity add, where the model has them.
        """
        rows = self.users.rows(user_ids)
        codes = self._codes(rows, time, context)
        given = self._histories(history, len(rows))
        histories, alone = self._joined(user_ids, rows, given, history_mode == "replace")
        learned = None if histories is None else [h[h < self.n_taken] for h in histories]
        sources = self._sources(rows, learned)
        read = self._read(rows, learned, sources, alone)
        found = self._queries(rows, codes, sources, learned, read)
        if self.events.recent is not None:  # it stands beside the product, see `_on_top`
            found = found.copy()
            found[:, -1] = 0
        there = sources != Source.POPULARITY
        return np.where(there[:, None], found, np.float32(0)), there

    def vectors_of_items(
        self, item_ids: Sequence[Any] | NDArray[Any]
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """Vectors ``[n, d]`` of items, zeros where an item is unknown, and which are known."""
        rows = self.items.rows(item_ids)
        return np.where(rows[:, None] >= 0, self.item_vectors.vectors[rows], 0), rows >= 0

    def read_choice(
        self, wanted: Filter | Every | None, rules: Rules, places: int
    ) -> tuple[Every | None, Rules]:
        """A filter and rules as `recommend` takes them, too, for users times k places.

        They are read once then, however often they are used.

        Raises:
            CadcError: one of them is not as described, or names what no item has.
        """
        only = condition_of(wanted, self.attributes, len(self.items)) if wanted else None
        return only, rules.read(places, self.attributes, len(self.items))

    def forms_vectors(self, user_ids: Sequence[Any] | NDArray[Any]) -> bool:
        """Whether a program forms vectors of these users, though they tell nothing when they ask.

        It does where the model reads the moment of a request, and of who has taken something since
        the log ended.

        Raises:
            CadcError: an id is of the wrong type.
        """
        if self.requests is not None and self.requests.codes is not None:
            return True
        if (self.requests is None and self.newcomers is None) or not self.events.has_users:
            return False
        keys = keys_of(self.users, user_ids, self.users.rows(user_ids))
        return self.events.of(keys) is not None

    @cached_property
    def directions(self) -> ItemVectors | AlteredItems:
        """The item vectors at length one, made at the first call."""
        if isinstance(self.item_vectors, AlteredItems):
            altered = self.item_vectors.altered
            first = self.bundle.directions
            assert isinstance(first, ItemVectors)
            few = ItemVectors(_at_length_one(altered.items.vectors))
            return AlteredItems(first, replace(altered, items=few))
        return ItemVectors(_at_length_one(self.item_vectors.vectors))

    @cached_property
    def _every_item(self) -> Retrieval:
        """Finds the best of all items, also of those that nobody took yet."""
        if isinstance(self.item_vectors, AlteredItems):
            bundle, altered = self.bundle, self.item_vectors.altered
            return AndAltered(bundle._every_item, len(bundle.items), altered)
        if isinstance(self.retrieval, ItemVectors):
            return self.item_vectors
        return AndOthers(self.retrieval, self.n_taken, self.item_vectors)

    @cached_property
    def _popular(self) -> Popularity:
        if self.base is not None:
            return replace(self.bundle._popular, added=len(self.beside.behind))
        order = np.argsort(-self.popularity, kind="stable")
        return Popularity(order, self.popularity, self.n_taken)

    @cached_property
    def _popular_of_every(self) -> Popularity:
        """The same, also of items that nobody took yet."""
        return replace(self._popular, ranked=len(self.popularity))

    def _sources(
        self, rows: NDArray[np.int64], learned: list[NDArray[np.int64]] | None
    ) -> NDArray[np.int8]:
        """What each user's answer is based on."""
        sources = np.where(rows >= 0, Source.KNOWN, Source.POPULARITY).astype(np.int8)
        if learned is not None and self.newcomers is not None:
            sources[(rows < 0) & np.array([len(h) > 0 for h in learned], np.bool_)] = Source.HISTORY
        return sources

    def _check_k(self, k: int) -> None:
        if isinstance(k, bool) or not isinstance(k, int | np.integer):
            raise CadcError(f"k is a whole number; got {k!r:.80}.")
        if not 1 <= k <= len(self.items):
            raise CadcError(
                f"k = {k} is not between 1 and the catalogue's {len(self.items)} items."
            )

    def _histories(
        self, history: Sequence[Sequence[Any]] | None, n: int
    ) -> list[NDArray[np.int64]] | None:
        """Item rows of each user's history, the latest first, each once."""
        if history is None:
            return None
        if isinstance(history, str) or len(history) != n:
            raise CadcError(f"history: give one list of item ids for each of the {n} users.")
        found = []
        for one in history:
            if isinstance(one, str) or not isinstance(one, Sequence | np.ndarray):
                raise CadcError(f"history: give a list of item ids a user, not {one!r:.80}.")
            rows = self.items.rows(one)
            found.append(_distinct(rows[rows >= 0][::-1]))
        return found

    def _told(self, attributes: Attributes, n: int) -> Told:
        """The attributes of n users, by name.

        Raises:
            CadcError: the model reads no such attribute, or a value is of the wrong type.
        """
        if not attributes:
            return {}
        if self.user_attributes is None:
            raise CadcError("attributes: this model reads none of users; leave them out.")
        return self.user_attributes.told(attributes, n)

    def _joined(
        self,
        user_ids: Sequence[Any] | NDArray[Any],
        rows: NDArray[np.int64],
        given: list[NDArray[np.int64]] | None,
        replace: bool,
    ) -> tuple[list[NDArray[np.int64]] | None, list[int] | None]:
        """Histories with what was counted of each user behind them.

        Args:
            user_ids: original ids.
            rows: of the users ``[n]``.
            given: histories of the request, the latest first.
            replace: whether these are read alone, where there are any.

        Returns:
            Of each user all that was taken since the log ended, the latest first, and how many of
            these are read alone; see `_read`.
        """
        alone = None
        if replace and given is not None:
            alone = [int((each < self.n_taken).sum()) for each in given]
        if not self.events.has_users:
            return given, alone
        since = self.events.of(keys_of(self.users, user_ids, rows))
        if since is None:
            return given, alone
        given = given or [np.zeros(0, np.int64)] * len(rows)
        return [_distinct(np.concatenate(pair)) for pair in zip(given, since, strict=True)], alone

    def _on_top(
        self, queries: Floats, read: list[NDArray[Any]], n_items: int
    ) -> tuple[Floats, Listed]:
        """Queries, and the scores on top of their dot products with the first `n_items`.

        Once events were counted, recent popularity stands there, and no longer in the last element
        of the vectors.
        """
        listed = None if self.listed is None else self.listed.of_lists(read)
        now = self.events.recent
        if now is None:
            return queries, listed
        factors = queries[:, -1]
        queries = queries.copy()
        queries[:, -1] = 0
        return queries, now.on_top(listed, factors, n_items)

    def _taken(
        self, rows: NDArray[np.int64], histories: list[NDArray[np.int64]] | None
    ) -> UserItems:
        """What users took, by their own record and by the history that came with the request."""
        if len(rows) == 1 and rows[0] >= 0 and histories is None:
            return self.known.slice(int(rows[0]), int(rows[0]) + 1)
        if histories is None and len(rows) and rows.min() >= 0:
            return self.known.some(rows)
        nothing = self.known.items[:0]
        parts = [self.known.of(row) if row >= 0 else nothing for row in rows.tolist()]
        if histories is not None:
            parts = [
                np.concatenate([mine, more.astype(np.int32)])
                for mine, more in zip(parts, histories, strict=True)
            ]
        return UserItems.of_lists(parts)

    def _read(
        self,
        rows: NDArray[np.int64],
        histories: list[NDArray[np.int64]] | None,
        sources: NDArray[np.int8],
        alone: list[int] | None = None,
    ) -> list[NDArray[Any]]:
        """The items that are read of each user, the latest first; none of one without a vector.

        Args:
            rows: of the users.
            histories: what they took since the log ended.
            sources: what each answer is based on.
            alone: how many items of each history are read alone; 0 or None reads all there are.

        An item that stands in both a user's own record and the history is where the history has it,
        though a log would keep its first place: it is what the user has in mind.
        """
        read: list[NDArray[Any]] = [self.known.items[:0]] * len(rows)
        alone = alone or [0] * len(rows)
        if histories is not None:
            new = (sources == Source.HISTORY) | (sources == Source.ATTRIBUTES)
            for place in np.flatnonzero(new):
                read[place] = histories[place][: alone[place] or None]
        if self.listed is None and self.requests is None:
            return read
        for place in np.flatnonzero((sources == Source.KNOWN) & (rows >= 0)):
            mine: NDArray[Any] = self.known.of(int(rows[place]))[::-1]
            if histories is not None and self.reads_sessions and len(histories[place]):
                now = histories[place]
                if alone[place]:
                    mine = now[: alone[place]]
                else:
                    mine = np.concatenate([now, mine[~np.isin(mine, now)]])
            read[place] = mine
        return read

    def _codes(self, rows: NDArray[np.int64], time: Times, context: Columns) -> Codes | None:
        """What the user tower reads of the requests; None of a model that reads nothing."""
        if self.requests is not None and self.requests.codes is not None:
            return self.requests.codes.of(rows, time, context)
        if time is not None or context:
            what = "time" if time is not None else "context"
            raise CadcError(
                f"{what}: this model reads nothing of the moment of a request; leave it out."
            )
        return None

    def _queries(
        self,
        rows: NDArray[np.int64],
        codes: Codes | None,
        sources: NDArray[np.int8],
        histories: list[NDArray[np.int64]] | None,
        read: list[NDArray[Any]],
    ) -> Floats:
        """A vector of each user that has one: their own, or that of the history.

        Args:
            rows: of the users ``[n]``.
            codes: of the requests.
            sources: what each answer is based on.
            histories: that came with the requests.
            read: what the model reads of each.
        """
        queries = self.user_vectors[rows]
        if self.requests is not None and codes is not None and len(rows):
            queries = self.requests.vectors(rows, read, codes)
        elif self.requests is not None and histories is not None:
            now = np.array([len(each) > 0 for each in histories], np.bool_)
            told = np.flatnonzero((sources == Source.KNOWN) & now)
            if len(told):
                now_read = [read[place] for place in told]
                queries[told] = self.requests.vectors(rows[told], now_read, None)
        newcomers = np.flatnonzero(sources == Source.HISTORY)
        if len(newcomers):
            assert self.newcomers is not None
            theirs = padded([read[place] for place in newcomers], self.history_length)
            asked = () if codes is None else (codes[newcomers],)
            queries[newcomers] = self.newcomers(theirs, *asked)
        return queries


def _at_length_one(vectors: Any) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Floats = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return found


def _distinct(history: NDArray[np.int64]) -> NDArray[np.int64]:
    """The items of a history, the latest first, each where it comes first."""
    _, first = np.unique(history, return_index=True)
    return history[np.sort(first)]


def _nothing_of(users: int) -> UserItems:
    """No items of so many users."""
    return UserItems(np.zeros(users + 1, np.int64), np.zeros(0, np.int32))
