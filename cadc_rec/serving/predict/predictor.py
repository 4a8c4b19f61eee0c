"""Recommendations from a bundle, in the process that wants them.

In: original user ids (and histories of those the model has never seen). Out: original item ids,
scores, and what each answer is based on. Nothing is changed after loading but by `Predictor.count`,
which puts what it made in place in one step. Who asks holds no lock, so any number of threads may.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.request_codes import Columns, Times
from cadc_rec.data.user_items import UserItems
from cadc_rec.errors import CadcError
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.predict.answers import Recommendations, Source
from cadc_rec.serving.predict.attributes import Attributes
from cadc_rec.serving.predict.choosing import Choice, Ids, Search
from cadc_rec.serving.predict.conditions import Every, with_few
from cadc_rec.serving.predict.events import Counted, Event, Outcome, keys_of, placed
from cadc_rec.serving.predict.filters import Filter, condition_of
from cadc_rec.serving.predict.item_search import SearchedContents
from cadc_rec.serving.predict.listed import scores_at
from cadc_rec.serving.predict.new_items import ItemChanges, ItemsBeside, PutItem, read_changes
from cadc_rec.serving.predict.put_beside import put_beside
from cadc_rec.serving.predict.query_vectors import AskingUsers
from cadc_rec.serving.predict.rules import NO_RULES, Rules, chosen
from cadc_rec.serving.predict.top_k import Floats, NotCandidates

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

HistoryMode = Literal["append", "replace"]


class Predictor(SearchedContents):
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
        alone = _reads_alone(history_mode)
        users = AskingUsers.of(self, user_ids, rows, time, context, history, alone)
        only, rules = self.read_choice(filter, rules, len(rows) * k)
        choice = Choice.of(len(rows), self.items, only, candidates, block)
        # What nobody took yet is ranked where it is asked for, and nowhere else.
        asked = bool(self.untaken) and choice.asks
        every = asked or self.base is not None  # new items have the last rows
        most = len(self.items) if every else self.n_taken
        users = users.with_attributes(attributes)
        taken = users.taken(most) if exclude_seen else _nothing_of(len(rows))
        out = choice.out(taken, self.no_answer, most)
        out = replace(out, added=rules.added)
        queries, listed = users.queries(most)
        retrieval = self._every_item if asked else self.retrieval
        popular = self._popular_of_every if asked else self._popular
        search = Search(queries, users.sources, retrieval, listed, popular, most, choice.own)
        best = chosen(search, k, out, rules, self.attributes, self.item_vectors.vectors)
        return Recommendations(best.rows, self.items.of_rows(best.rows), best.scores, users.sources)

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
        user_ids = [user for user, _ in pairs]
        rows = self.users.rows(user_ids)
        items = self.items.rows([item for _, item in pairs])
        users = AskingUsers.of(self, user_ids, rows, time, context)
        # A stranger has no score, so nothing folds in what was counted of one.
        users = replace(users, sources=np.full(len(rows), Source.KNOWN, np.int8))
        queries, listed = users.queries(len(self.items))
        mine = queries.astype(np.float64)
        scores: NDArray[np.float64] = (mine * self.item_vectors.vectors[items]).sum(1)
        scores += [float(scores_at(listed, n, items[n : n + 1])[0]) for n in range(len(items))]
        scores[(rows < 0) | (items < 0)] = np.nan
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

        Raises:
            CadcError: an argument is of the wrong type, shape or range.
        """
        rows, alone = self.users.rows(user_ids), _reads_alone(history_mode)
        users = AskingUsers.of(self, user_ids, rows, time, context, history, alone)
        found = users.vectors()
        if self.events.recent is not None:  # it stands beside the product, as in `recommend`
            found = found.copy()
            found[:, -1] = 0
        there = users.sources != Source.POPULARITY
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

    def _check_k(self, k: int) -> None:
        if isinstance(k, bool) or not isinstance(k, int | np.integer):
            raise CadcError(f"k is a whole number; got {k!r:.80}.")
        if not 1 <= k <= len(self.items):
            raise CadcError(
                f"k = {k} is not between 1 and the catalogue's {len(self.items)} items."
            )


def _reads_alone(history_mode: str) -> bool:
    """Whether a history is read in place of what the bundle knows of a user."""
    if history_mode not in ("append", "replace"):
        raise CadcError(f"history_mode is 'append' or 'replace', not {history_mode!r:.80}.")
    return history_mode == "replace"


def _nothing_of(users: int) -> UserItems:
    """No items of so many users."""
    return UserItems(np.zeros(users + 1, np.int64), np.zeros(0, np.int32))
